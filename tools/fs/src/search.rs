//! `fs.search`: files in a tree that fit every filter given.
//!
//! Links are not followed. Of a file that must be named to be read, the name may be found but its
//! content is never searched; kernel file systems are not entered from outside.

use std::{
    fs::File,
    io::Read,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aios_tool_api::{
    Accounts, Capability, Context, FileMode, Registry, Risk, Size, Span, Spec, Tool, ToolError,
};
use rustix::fs::Stat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    content,
    facts::{self, Kind},
    glob::{Glob, fold},
    root::{self, Last, Root},
    walk::{self, Next, Skipped, Visit, Walk},
};

/// Largest file whose content is searched.
const CONTENT_LIMIT: u64 = 64 << 20;

/// A kind of file that can be searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Wanted {
    /// Regular files.
    File,
    /// Directories.
    Directory,
    /// Symbolic links.
    Symlink,
}

/// Where to look and for what. Every filter that is given must fit.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Absolute path of the directory to look in, everything below included.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// The file's name as a glob: `*.log`, `*backup*`, `core.?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "glob"))]
    pub name: Option<String>,
    /// Text that the file contains. Looks only into regular files of at most 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// At least this large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Size>,
    /// At most this large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
    /// Changed within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer_than: Option<Span>,
    /// Not changed for this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than: Option<Span>,
    /// Only this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Wanted>,
    /// Belongs to this user (name or number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Belongs to this group (name or number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Has exactly these permissions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
    /// An empty file or directory (false: not an empty one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty: Option<bool>,
    /// Upper and lower case are the same, in `name` and `contains`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_case: Option<bool>,
    /// How many directories deep to look; 1 is only what is directly in `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
}

/// A file that fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Match {
    /// Its absolute path.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// Last change of the content, in milliseconds since 1970.
    pub modified_ms: i64,
}

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The directory that was searched, with links resolved.
    pub path: String,
    /// What fits, in the order of the paths.
    pub matches: Vec<Match>,
    /// How many fit, those that were cut included.
    pub total: u64,
    /// How many files, directories and links were looked at.
    pub looked_at: u64,
    /// Whether `matches` was cut because the result would be too large.
    pub truncated: bool,
    /// How many places could not be looked at.
    pub skipped_count: u64,
    /// Places that could not be looked at, and why (the first of them).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
}

struct FsSearch;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(FsSearch);
}

impl Tool for FsSearch {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "fs.search",
            summary: "Finds files below a directory by name, content, size, age, kind, owner or \
                      permissions. Does not follow symbolic links, does not enter /proc or /sys \
                      from outside, and does not look into protected files.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(60),
            capability: ("fs", "read"),
        }
    }

    fn normalise(&self, args: Args, context: &Context) -> Result<Args, ToolError> {
        let path = Root::open(context)?.canonical(&args.path, Last::Follow)?;
        if let Some(name) = &args.name {
            Glob::parse(name, false).map_err(|wrong| {
                ToolError::invalid(format!("name `{name}` is no glob: {wrong}"))
                    .hint("write it like `*.log`; the directory goes into path")
            })?;
        }
        if args.contains.as_ref().is_some_and(String::is_empty) {
            return Err(ToolError::invalid("contains is empty").hint("leave it out"));
        }
        if args.max_depth == Some(0) {
            return Err(ToolError::invalid(
                "max_depth is 0, which would find nothing",
            ));
        }
        if let (Some(min), Some(max)) = (&args.min_size, &args.max_size)
            && min.bytes() > max.bytes()
        {
            return Err(ToolError::invalid(format!(
                "min_size {min} is more than max_size {max}"
            )));
        }
        Ok(Args { path, ..args })
    }

    fn capabilities(&self, args: &Args) -> Vec<Capability> {
        vec![Capability::new("fs", "read").on(&args.path)]
    }

    fn execute(&self, args: &Args, context: &Context) -> Result<Output, ToolError> {
        let root = Root::open(context)?;
        let filter = Filter::new(args, &root.accounts())?;
        let dir = root.directory(&args.path)?;
        let pseudo = walk::PseudoFileSystems::from(&dir, &args.path)?;
        let mut output = Output {
            path: args.path.clone(),
            matches: Vec::new(),
            total: 0,
            looked_at: 0,
            truncated: false,
            skipped_count: 0,
            skipped: Vec::new(),
        };
        let mut room = context.output_limit.saturating_sub(8192);
        let mut unread: Vec<(String, String)> = Vec::new();
        let mut unread_count = 0;
        let mut walk = Walk::new(context, &args.path);
        walk.run(dir, &mut |visit| {
            output.looked_at += 1;
            let path = root::join(&args.path, visit.relative);
            match filter.fits(visit, &path, context) {
                Ok(true) => {
                    output.total += 1;
                    let found = Match {
                        path,
                        kind: Kind::of(visit.stat),
                        size: facts::size(visit.stat),
                        modified_ms: facts::modified_ms(visit.stat),
                    };
                    let needed = facts::json_size(&found) + 1;
                    output.truncated |= needed > room;
                    if !output.truncated {
                        room -= needed;
                        output.matches.push(found);
                    }
                }
                Ok(false) => {}
                Err(reason) => {
                    unread_count += 1;
                    if unread.len() < 20 {
                        unread.push((visit.relative.to_owned(), reason));
                    }
                }
            }
            let deep_enough = args
                .max_depth
                .is_some_and(|most| visit.depth >= most as usize);
            Ok(if deep_enough || pseudo.begins_at(visit) {
                Next::Past
            } else {
                Next::Into
            })
        })?;
        for (relative, reason) in &unread {
            walk.skip(relative, reason);
        }
        output.skipped_count = walk.skipped_count + unread_count - unread.len() as u64;
        output.skipped = walk.skipped;
        Ok(output)
    }
}

/// The filters of one call, ready to be applied.
struct Filter {
    name: Option<Glob>,
    contains: Option<String>,
    ignore_case: bool,
    size: (u64, u64),
    /// Last changes between these, in milliseconds since 1970.
    modified_ms: (i64, i64),
    kind: Option<Kind>,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<FileMode>,
    empty: Option<bool>,
}

impl Filter {
    fn new(args: &Args, accounts: &Accounts) -> Result<Self, ToolError> {
        let ignore_case = args.ignore_case.unwrap_or(false);
        let ago = |span: &Span| {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            i64::try_from(now.saturating_sub(span.duration()).as_millis()).unwrap_or(i64::MAX)
        };
        let unknown = |what: &str, name: &str| {
            ToolError::invalid(format!("there is no {what} `{name}` on this machine"))
        };
        let glob = |name: &String| Glob::parse(name, ignore_case).map_err(ToolError::invalid);
        Ok(Self {
            name: args.name.as_ref().map(glob).transpose()?,
            contains: args.contains.as_ref().map(|text| fold(text, ignore_case)),
            ignore_case,
            size: (
                args.min_size.as_ref().map_or(0, Size::bytes),
                args.max_size.as_ref().map_or(u64::MAX, Size::bytes),
            ),
            modified_ms: (
                args.newer_than.as_ref().map_or(i64::MIN, ago),
                args.older_than.as_ref().map_or(i64::MAX, ago),
            ),
            kind: args.kind.map(|kind| match kind {
                Wanted::File => Kind::File,
                Wanted::Directory => Kind::Directory,
                Wanted::Symlink => Kind::Symlink,
            }),
            uid: args
                .owner
                .as_ref()
                .map(|name| accounts.uid(name).ok_or_else(|| unknown("user", name)))
                .transpose()?,
            gid: args
                .group
                .as_ref()
                .map(|name| accounts.gid(name).ok_or_else(|| unknown("group", name)))
                .transpose()?,
            mode: args.mode,
            empty: args.empty,
        })
    }

    /// Whether an entry fits, the cheap filters first; the error is why its content is not known.
    fn fits(&self, visit: &Visit<'_>, path: &str, context: &Context) -> Result<bool, String> {
        let stat = visit.stat;
        if !self.attributes_fit(stat) {
            return Ok(false);
        }
        if let Some(glob) = &self.name
            && !glob.matches(&visit.name.to_string_lossy())
        {
            return Ok(false);
        }
        if let Some(wanted) = self.empty
            && wanted != is_empty(visit)?
        {
            return Ok(false);
        }
        let Some(text) = &self.contains else {
            return Ok(true);
        };
        if Kind::of(stat) != Kind::File {
            return Ok(false);
        }
        if !context.may_read(Path::new(path)) {
            return Err("may only be read by a call that names it".to_owned());
        }
        if facts::size(stat) > CONTENT_LIMIT {
            return Err(format!(
                "larger than {CONTENT_LIMIT} bytes, not looked into"
            ));
        }
        let (fd, _) = content::open_regular(visit.dir, visit.name, path)
            .map_err(|error| error.to_string())?;
        holds(File::from(fd).take(CONTENT_LIMIT), text, self.ignore_case)
            .map_err(|error| error.to_string())
    }

    fn attributes_fit(&self, stat: &Stat) -> bool {
        let kind = Kind::of(stat);
        // Sizes are asked of files; a directory's own size means nothing to anybody.
        let sized = self.size == (0, u64::MAX)
            || (kind == Kind::File && (self.size.0..=self.size.1).contains(&facts::size(stat)));
        sized
            && (self.modified_ms.0..=self.modified_ms.1).contains(&facts::modified_ms(stat))
            && self.kind.is_none_or(|wanted| wanted == kind)
            && self.uid.is_none_or(|uid| uid == stat.st_uid)
            && self.gid.is_none_or(|gid| gid == stat.st_gid)
            && self
                .mode
                .is_none_or(|mode| mode == FileMode::from_bits(stat.st_mode))
    }
}

fn is_empty(visit: &Visit<'_>) -> Result<bool, String> {
    match Kind::of(visit.stat) {
        Kind::File => Ok(visit.stat.st_size == 0),
        Kind::Directory => {
            walk::open_below(visit.dir, visit.name, rustix::fs::ResolveFlags::empty())
                .and_then(walk::names)
                .map(|names| names.is_empty())
                .map_err(|errno| errno.to_string())
        }
        _ => Ok(false),
    }
}

/// Whether a content has a text in it. Read in pieces that overlap by the length of the text.
fn holds(mut content: impl Read, text: &str, ignore_case: bool) -> std::io::Result<bool> {
    let mut window: Vec<u8> = Vec::new();
    let mut piece = vec![0; 256 << 10];
    // Lower case can be longer or shorter than upper case; a few letters of room cover that.
    let overlap = text.len().saturating_mul(3) + 16;
    loop {
        let count = content.read(&mut piece)?;
        if count == 0 {
            return Ok(false);
        }
        window.extend_from_slice(piece.get(..count).unwrap_or_default());
        let found = if ignore_case {
            String::from_utf8_lossy(&window)
                .to_lowercase()
                .contains(text)
        } else {
            has(&window, text.as_bytes())
        };
        if found {
            return Ok(true);
        }
        let keep_from = window.len().saturating_sub(overlap);
        window.drain(..keep_from);
    }
}

/// Whether `text` is in `bytes`.
fn has(bytes: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else {
        return true;
    };
    let mut left = bytes;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = left.get(at + 1..).unwrap_or_default();
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn content_is_found_wherever_it_is(before in 0_usize..600_000, text in "[a-cÄß]{1,8}", ignore_case: bool) {
            let mut content = vec![b'-'; before];
            content.extend_from_slice(if ignore_case { text.to_uppercase() } else { text.clone() }.as_bytes());
            content.extend_from_slice(&[0xff; 10]);
            let wanted = fold(&if ignore_case { text.to_uppercase() } else { text.clone() }, ignore_case);
            prop_assert!(holds(content.as_slice(), &wanted, ignore_case).unwrap());
            prop_assert!(!holds(content.as_slice(), "zz", ignore_case).unwrap());
        }
    }
}
