//! `fs.read`: the text of a file, whole or some of its lines.
//!
//! At most the result limit is ever held in memory: lines are taken from a stream, and the last lines
//! are looked for from the end.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom},
    time::Duration,
};

use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError};
use base64::Engine as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    facts,
    root::{Last, Root},
};

/// Most that is read from a file without a size (`/proc`), in bytes.
const UNSIZED_LIMIT: u64 = 16 << 20;

/// Which file, and which of its lines.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Absolute path of a regular file.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// Lines to leave out before the first; negative counts from the end: -20 is the last 20 lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// Most lines to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What is in it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The file, with links resolved.
    pub path: String,
    /// The text. Bytes that are not UTF-8 are shown as U+FFFD; `base64` then has them exactly.
    pub content: String,
    /// The bytes in base64, only when they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// How many lines `content` has; the last need not be whole when `truncated`.
    pub lines: u64,
    /// Size of the whole file in bytes; 0 for files that the kernel makes up as they are read.
    pub size: u64,
    /// Whether more was asked for than `content` holds, because the result would be too large.
    pub truncated: bool,
}

struct FsRead;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(FsRead);
}

impl Tool for FsRead {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "fs.read",
            summary: "Reads a text file, or some of its lines. Reads regular files only; a result \
                      that would be too large is cut and says so.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(30),
            capability: ("fs", "read"),
        }
    }

    fn normalise(&self, args: Args, context: &Context) -> Result<Args, ToolError> {
        if args.limit == Some(0) {
            return Err(ToolError::invalid("limit is 0, which would read nothing")
                .hint("leave limit out to read everything"));
        }
        let path = Root::open(context)?.canonical(&args.path, Last::Follow)?;
        Ok(Args { path, ..args })
    }

    fn capabilities(&self, args: &Args) -> Vec<Capability> {
        vec![Capability::new("fs", "read").on(&args.path)]
    }

    fn execute(&self, args: &Args, context: &Context) -> Result<Output, ToolError> {
        let (fd, stat) = Root::open(context)?.regular(&args.path)?;
        let mut file = File::from(fd);
        let size = facts::size(&stat);
        let room = context.output_limit.saturating_sub(1024);
        let limit = args.limit.unwrap_or(u64::MAX);
        let read = match args.offset.unwrap_or(0) {
            offset @ 0.. => from_start(
                BufReader::new(&file),
                offset.unsigned_abs(),
                limit,
                room,
                context,
            ),
            offset => from_end(&mut file, size, offset.unsigned_abs(), limit, room),
        };
        let (bytes, cut) = read.map_err(|failure| match failure {
            Failure::Ended(error) => error,
            Failure::Io(error) => ToolError::io(format!("cannot read {}", args.path), &error),
        })?;
        let (content, base64, cut_again) = fitting(bytes, room);
        Ok(Output {
            path: args.path.clone(),
            lines: count_lines(content.as_bytes()),
            content,
            base64,
            size,
            truncated: cut || cut_again,
        })
    }
}

enum Failure {
    Ended(ToolError),
    Io(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// At most `limit` lines after the first `offset`, and at most `room` bytes; whether it was cut.
fn from_start(
    mut reader: impl BufRead,
    offset: u64,
    limit: u64,
    room: usize,
    context: &Context,
) -> Result<(Vec<u8>, bool), Failure> {
    let mut taken = Vec::new();
    let mut line = 0u64;
    loop {
        context.check_alive().map_err(Failure::Ended)?;
        let buffer = match reader.fill_buf() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if buffer.is_empty() {
            return Ok((taken, false));
        }
        let mut used = 0;
        for piece in buffer.split_inclusive(|byte| *byte == b'\n') {
            if line >= offset {
                if line - offset >= limit {
                    return Ok((taken, false));
                }
                let left = room.saturating_sub(taken.len());
                if piece.len() > left {
                    taken.extend(piece.iter().take(left));
                    return Ok((taken, true));
                }
                taken.extend_from_slice(piece);
            }
            used += piece.len();
            if piece.ends_with(b"\n") {
                line += 1;
            }
        }
        reader.consume(used);
    }
}

/// Of the last `count` lines at most `limit`, and at most `room` bytes of the end; whether it was cut.
fn from_end(
    file: &mut File,
    size: u64,
    count: u64,
    limit: u64,
    room: usize,
) -> Result<(Vec<u8>, bool), Failure> {
    let mut tail = Vec::new();
    let window = if size == 0 {
        UNSIZED_LIMIT
    } else {
        room as u64
    };
    let begin = size.saturating_sub(window);
    file.seek(SeekFrom::Start(begin))?;
    file.take(window).read_to_end(&mut tail)?;
    let body = tail.strip_suffix(b"\n").unwrap_or(&tail);
    let starts: Vec<usize> = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1)
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .collect();
    let (first, mut cut) = match starts.last() {
        Some(first) if starts.len() as u64 == count => (*first, false),
        // Fewer lines than asked for: everything is in the window, or the window begins in a line.
        last if begin > 0 => (last.copied().unwrap_or(0), true),
        _ => (0, false),
    };
    let mut wanted = tail.split_off(first);
    if let Some(end) = wanted
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(usize::try_from(limit - 1).unwrap_or(usize::MAX))
        .map(|(at, _)| at + 1)
    {
        wanted.truncate(end);
    }
    if wanted.len() > room {
        wanted.drain(..wanted.len() - room);
        cut = true;
    }
    if cut {
        // The cut may have gone through a character; its rest is no text.
        let rest = wanted
            .iter()
            .take(3)
            .take_while(|byte| **byte & 0xC0 == 0x80)
            .count();
        wanted.drain(..rest);
    }
    Ok((wanted, cut))
}

/// The bytes as text that takes at most `room` bytes of JSON, with the exact bytes when they are no
/// text; whether something was cut.
fn fitting(mut bytes: Vec<u8>, room: usize) -> (String, Option<String>, bool) {
    // A character that the limit cut in half does not make a text file binary.
    let valid = match std::str::from_utf8(&bytes) {
        Ok(text) => text.len(),
        Err(error) if error.error_len().is_none() && bytes.len() >= room.saturating_sub(4) => {
            error.valid_up_to()
        }
        Err(_) => {
            // Each byte takes at most 3 in the text (U+FFFD), 6 when escaped, and 4/3 in base64.
            let cut = bytes.len() > room / 8;
            bytes.truncate(room / 8);
            let base64 = base64::engine::general_purpose::STANDARD.encode(&bytes);
            return (
                String::from_utf8_lossy(&bytes).into_owned(),
                Some(base64),
                cut,
            );
        }
    };
    let mut left = room;
    let mut end = 0;
    let text = std::str::from_utf8(bytes.get(..valid).unwrap_or_default()).unwrap_or_default();
    for letter in text.chars() {
        let needed = match letter {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            letter if letter < ' ' => 6,
            letter => letter.len_utf8(),
        };
        if needed > left {
            break;
        }
        left -= needed;
        end += letter.len_utf8();
    }
    let cut = end < bytes.len();
    (text.get(..end).unwrap_or_default().to_owned(), None, cut)
}

fn count_lines(bytes: &[u8]) -> u64 {
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    ends + u64::from(bytes.last().is_some_and(|last| *last != b'\n'))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use aios_tool_api::ToolErrorKind;
    use proptest::prelude::*;
    use serde_json::json;

    use crate::testing::Machine;

    fn ten_lines() -> Machine {
        let machine = Machine::new();
        let text: String = (1..=10).map(|n| format!("line {n}\n")).collect();
        fs::write(machine.path("/f"), text).unwrap();
        machine
    }

    #[test]
    fn whole_files_and_parts() {
        let machine = ten_lines();
        let content = |args| {
            machine.output("fs.read", args)["content"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(content(json!({"path": "/f"})).lines().count(), 10);
        assert_eq!(
            content(json!({"path": "/f", "limit": 2})),
            "line 1\nline 2\n"
        );
        assert_eq!(
            content(json!({"path": "/f", "offset": 8})),
            "line 9\nline 10\n"
        );
        assert_eq!(
            content(json!({"path": "/f", "offset": 3, "limit": 1})),
            "line 4\n"
        );
        assert_eq!(
            content(json!({"path": "/f", "offset": -2})),
            "line 9\nline 10\n"
        );
        assert_eq!(
            content(json!({"path": "/f", "offset": -3, "limit": 1})),
            "line 8\n"
        );
        assert_eq!(
            content(json!({"path": "/f", "offset": -99}))
                .lines()
                .count(),
            10
        );
        assert_eq!(content(json!({"path": "/f", "offset": 99})), "");
    }

    #[test]
    fn bytes_that_are_no_text_come_in_base64_too() {
        let machine = Machine::new();
        fs::write(machine.path("/bin"), [0xff, 0x00, b'a']).unwrap();
        let output = machine.output("fs.read", json!({"path": "/bin"}));
        assert_eq!(output["base64"], "/wBh");
        assert_eq!(output["content"], "\u{fffd}\0a");
    }

    #[test]
    fn a_large_file_is_cut_within_the_limit_and_says_so() {
        let mut machine = Machine::new();
        machine.context.output_limit = 4096;
        fs::write(machine.path("/big"), "ü\u{1b}\n".repeat(4000)).unwrap();
        for args in [
            json!({"path": "/big"}),
            json!({"path": "/big", "offset": -4000}),
        ] {
            let output = machine.output("fs.read", args);
            assert_eq!(output["truncated"], true);
            assert!(output.get("base64").is_none(), "{output}");
            assert!(output.to_string().len() <= 4096);
        }
        let end = machine.output("fs.read", json!({"path": "/big", "offset": -1}));
        assert_eq!(end["content"], "ü\u{1b}\n");
        assert_eq!(end["truncated"], false);
    }

    #[test]
    fn files_that_the_kernel_makes_up_have_content() {
        let mut machine = Machine::new();
        machine.context = machine.context_at("/");
        let output = machine.output("fs.read", json!({"path": "/proc/meminfo"}));
        assert!(output["content"].as_str().unwrap().starts_with("MemTotal"));
        let last = machine.output("fs.read", json!({"path": "/proc/meminfo", "offset": -1}));
        assert_eq!(last["lines"], 1);
    }

    #[test]
    fn only_regular_files_are_read_and_nothing_waits() {
        let machine = ten_lines();
        let fifo = machine.path("/fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        fs::create_dir(machine.path("/dir")).unwrap();
        for path in ["/fifo", "/dir", "/"] {
            let error = machine.run("fs.read", json!({"path": path})).err().unwrap();
            assert_eq!(error.kind, ToolErrorKind::Invalid, "{error}");
        }
        let error = machine
            .run("fs.read", json!({"path": "/none"}))
            .err()
            .unwrap();
        assert_eq!(error.kind, ToolErrorKind::NotFound);
    }

    #[test]
    fn what_is_authorised_is_where_the_link_leads() {
        let machine = ten_lines();
        fs::create_dir(machine.path("/etc")).unwrap();
        fs::write(machine.path("/etc/shadow"), "root:secret").unwrap();
        symlink("/etc/shadow", machine.path("/innocent")).unwrap();
        let tool = machine.registry.get("fs.read").unwrap();
        let args = machine
            .normalise("fs.read", json!({"path": "/innocent"}))
            .unwrap();
        assert_eq!(
            tool.capabilities(&args).unwrap()[0].to_string(),
            "fs:read:/etc/shadow"
        );
    }

    #[test]
    fn a_file_swapped_for_a_link_after_the_check_is_not_read() {
        let machine = ten_lines();
        fs::write(machine.path("/key"), "secret").unwrap();
        let tool = machine.registry.get("fs.read").unwrap();
        let args = machine.normalise("fs.read", json!({"path": "/f"})).unwrap();
        fs::remove_file(machine.path("/f")).unwrap();
        symlink("/key", machine.path("/f")).unwrap();
        let error = tool.execute(&args, &machine.context).unwrap_err();
        assert!(!error.to_string().contains("secret"));
        assert!(
            matches!(error.kind, ToolErrorKind::Conflict | ToolErrorKind::Invalid),
            "{error}"
        );
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        let machine = ten_lines();
        for args in [
            json!({}),
            json!({"path": "f"}),
            json!({"path": "/f", "lines": 1}),
            json!({"path": "/f", "limit": -1}),
            json!({"path": "/f", "limit": 0}),
            json!({"path": "/f", "offset": 1.5}),
        ] {
            assert_eq!(
                machine.normalise("fs.read", args).unwrap_err().kind,
                ToolErrorKind::Invalid
            );
        }
    }

    proptest! {
        #[test]
        fn lines_are_the_lines(text in "[a\\n]{0,40}", offset in -12_i64..12, limit in 1_u64..12) {
            let machine = Machine::new();
            fs::write(machine.path("/f"), &text).unwrap();
            let all: Vec<&str> = text.split_inclusive('\n').collect();
            let skip = if offset >= 0 { offset as usize } else { all.len().saturating_sub(offset.unsigned_abs() as usize) };
            let expected: String = all.iter().skip(skip).take(limit as usize).copied().collect();
            let output = machine.output("fs.read", json!({"path": "/f", "offset": offset, "limit": limit}));
            prop_assert_eq!(output["content"].as_str().unwrap(), expected);
            prop_assert_eq!(output["truncated"].as_bool().unwrap(), false);
        }
    }
}
