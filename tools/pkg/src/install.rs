//! `pkg.install`, and its undo: removing exactly what the call brought.

use std::{collections::BTreeSet, time::Duration};

use aios_tool_api::{
    BlobId, Capability, Context, PreImage, Risk, Spec, Tool, ToolError, ToolErrorKind, Undone,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    apt::Apt,
    failure, lists, name,
    state::{Entry, Package, Packages, Stage},
};

/// Arguments of `pkg.install`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallArgs {
    /// Debian's name of the package, e.g. `nginx`.
    pub name: String,
    /// The exact version; the newest when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A package whose version changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionChange {
    /// Name.
    pub name: String,
    /// Version before.
    pub from: String,
    /// Version after.
    pub to: String,
}

/// What an installation left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Installed {
    /// The package that was asked for.
    pub name: String,
    /// Its version now.
    pub version: String,
    /// Everything that was newly installed, dependencies included.
    pub installed: Vec<Package>,
    /// What was there already and has another version now.
    pub changed: Vec<VersionChange>,
    /// Whether it was there already, so that nothing was installed.
    pub already_installed: bool,
}

/// Keeps the list of packages and returns its name in the store.
pub(crate) fn save(packages: &Packages, context: &Context) -> Result<BlobId, ToolError> {
    let json = serde_json::to_vec(packages).map_err(|error| {
        ToolError::new(
            ToolErrorKind::Internal,
            format!("the list of packages is not JSON: {error}"),
        )
    })?;
    context
        .blobs
        .put(json.as_slice())
        .map_err(|error| ToolError::io("cannot keep the list of packages", &error))
}

/// The list of packages that [`save`] kept.
pub(crate) fn load(pre_image: &PreImage, context: &Context) -> Result<Packages, ToolError> {
    let broken = |error: serde_json::Error| {
        ToolError::new(
            ToolErrorKind::Internal,
            format!("recorded list of packages: {error}"),
        )
    };
    let blob = pre_image.data.get("packages").cloned().unwrap_or_default();
    let id: BlobId = serde_json::from_value(blob).map_err(broken)?;
    let file = context
        .blobs
        .open(&id)
        .map_err(|error| ToolError::io("cannot open the recorded list of packages", &error))?;
    serde_json::from_reader(std::io::BufReader::new(file)).map_err(broken)
}

fn changes(before: &Packages, after: &Packages) -> Vec<VersionChange> {
    let changed = |(name, now): (&String, &Entry)| {
        let was = before.installed(name)?;
        (now.stage == Stage::Installed && was.version != now.version).then(|| VersionChange {
            name: name.clone(),
            from: was.version.clone(),
            to: now.version.clone(),
        })
    };
    after.0.iter().filter_map(changed).collect()
}

/// `pkg.install`
#[derive(Debug, Clone)]
pub struct Install {
    apt: Apt,
}

impl Install {
    /// The tool on the packages that `apt` describes.
    #[must_use]
    pub fn new(apt: Apt) -> Self {
        Self { apt }
    }

    /// Makes sure that a source has the package; refreshes the lists when they are old or do not
    /// know it.
    fn look_up(&self, name: &str, context: &Context) -> Result<(), ToolError> {
        let refreshed = if lists::are_old(&self.apt, context) {
            lists::refresh(&self.apt, context)
        } else {
            Ok(())
        };
        let mut found = lists::candidate(&self.apt, name, context)?;
        if found.is_none() {
            // Without lists there is nothing to be said about a name but why there are none.
            refreshed?;
            lists::refresh(&self.apt, context)?;
            found = lists::candidate(&self.apt, name, context)?;
        }
        if found.is_some() {
            return Ok(());
        }
        Err(ToolError::new(
            ToolErrorKind::NotFound,
            format!("no package source has a package `{name}`"),
        )
        .hint("pkg.search finds the names of packages"))
    }

    /// What of the packages that are new since `before` belongs to the call.
    fn ours(
        &self,
        args: &InstallArgs,
        before: &Packages,
        now: &Packages,
        output: Option<&Installed>,
        context: &Context,
    ) -> Result<Vec<String>, ToolError> {
        let new: BTreeSet<String> = now
            .installed_beyond(before)
            .into_iter()
            .map(|package| package.name)
            .collect();
        let mut claimed: BTreeSet<String> = output
            .into_iter()
            .flat_map(|output| output.installed.iter().map(|package| package.name.clone()))
            .collect();
        if new.contains(&args.name) {
            claimed.insert(args.name.clone());
            // A call that was interrupted has no complete account of itself; what came along with
            // the package and is needed by nothing else is its, too.
            let names = [args.name.clone()];
            claimed.extend(
                self.apt
                    .would_remove("remove", &["--auto-remove"], &names, context)?,
            );
        }
        Ok(new.intersection(&claimed).cloned().collect())
    }

    /// Why the packages of the call should not go, if so.
    fn objection(
        &self,
        args: &InstallArgs,
        ours: &[String],
        now: &Packages,
        context: &Context,
    ) -> Result<Option<String>, ToolError> {
        let wanted: Vec<&str> = ours
            .iter()
            .filter(|name| **name != args.name)
            .filter(|name| now.installed(name).is_some_and(|entry| !entry.auto))
            .map(String::as_str)
            .collect();
        if !wanted.is_empty() {
            return Ok(Some(format!(
                "{} came with {} but has been asked for by itself since; pkg.remove it first",
                wanted.join(", "),
                args.name
            )));
        }
        let others: Vec<String> = self
            .apt
            .would_remove("remove", &[], ours, context)?
            .into_iter()
            .filter(|name| !ours.contains(name))
            .collect();
        if !others.is_empty() {
            return Ok(Some(format!(
                "{} needs what the call installed; pkg.remove it first",
                others.join(", ")
            )));
        }
        let needed: Vec<&str> = ours
            .iter()
            .filter(|name| now.installed(name).is_some_and(|entry| entry.needed))
            .map(String::as_str)
            .collect();
        Ok((!needed.is_empty()).then(|| format!("aiOS needs {}, which stays", needed.join(", "))))
    }

    /// Brings a package that was there before the call back to its version.
    fn revert(
        &self,
        args: &InstallArgs,
        was: &Entry,
        now: &Packages,
        context: &Context,
    ) -> Result<Option<String>, ToolError> {
        let is = now.installed(&args.name);
        if is.is_some_and(|is| is.version == was.version && is.auto == was.auto) {
            return Ok(None);
        }
        if is.is_none_or(|is| is.version != was.version) {
            let exact = [format!("{}={}", args.name, was.version)];
            let ran = self.apt.get(
                "install",
                &["--no-remove", "--allow-downgrades"],
                &exact,
                context,
            )?;
            if !ran.ok {
                let what = format!("cannot bring {} {} back", args.name, was.version);
                return Err(failure::of(&what, &ran));
            }
        }
        if was.auto {
            self.apt
                .mark("auto", std::slice::from_ref(&args.name), context)?;
        }
        let after = self.apt.packages(context)?;
        match after.installed(&args.name) {
            Some(entry) if entry.version == was.version => Ok(Some(format!(
                "{} has version {} again",
                args.name, was.version
            ))),
            _ => Err(ToolError::new(
                ToolErrorKind::Unverified,
                format!("{} does not have version {} again", args.name, was.version),
            )),
        }
    }
}

impl Tool for Install {
    type Args = InstallArgs;
    type Output = Installed;

    fn spec(&self) -> Spec {
        Spec {
            name: "pkg.install",
            summary: "Install a Debian package with what it depends on. A service in it is not \
                      started: service.define and service.start do that.",
            risk: Risk::Medium,
            undo: Some("remove what the call installed, dependencies included"),
            idempotent: true,
            deadline: Duration::from_secs(900),
            capability: ("pkg", "install"),
        }
    }

    fn normalise(&self, args: InstallArgs, _: &Context) -> Result<InstallArgs, ToolError> {
        if let Some(version) = &args.version {
            name::version(version)?;
        }
        Ok(InstallArgs {
            name: name::canonical(&args.name)?,
            ..args
        })
    }

    fn capabilities(&self, args: &InstallArgs) -> Vec<Capability> {
        vec![Capability::new("pkg", "install").on(&args.name)]
    }

    fn pre_image(&self, _: &InstallArgs, context: &Context) -> Result<Option<PreImage>, ToolError> {
        let packages = save(&self.apt.packages(context)?, context)?;
        Ok(Some(PreImage {
            data: json!({ "packages": packages }),
        }))
    }

    fn execute(&self, args: &InstallArgs, context: &Context) -> Result<Installed, ToolError> {
        let mut before = self.apt.packages(context)?;
        if self.apt.repair(&before, context)? {
            before = self.apt.packages(context)?;
        }
        let present = before.installed(&args.name).filter(|entry| {
            args.version
                .as_ref()
                .is_none_or(|version| *version == entry.version)
        });
        if let Some(entry) = present {
            if entry.auto {
                self.apt
                    .mark("manual", std::slice::from_ref(&args.name), context)?;
            }
            return Ok(Installed {
                name: args.name.clone(),
                version: entry.version.clone(),
                installed: Vec::new(),
                changed: Vec::new(),
                already_installed: true,
            });
        }
        self.look_up(&args.name, context)?;
        let exact = match &args.version {
            Some(version) => format!("{}={version}", args.name),
            None => args.name.clone(),
        };
        let ran = self
            .apt
            .get("install", &["--no-remove"], &[exact], context)?;
        if !ran.ok {
            return Err(failure::of(&format!("cannot install {}", args.name), &ran));
        }
        let after = self.apt.packages(context)?;
        let entry = after.installed(&args.name).ok_or_else(|| {
            ToolError::new(
                ToolErrorKind::Unverified,
                format!("apt reported success, but {} is not installed", args.name),
            )
        })?;
        Ok(Installed {
            name: args.name.clone(),
            version: entry.version.clone(),
            installed: after.installed_beyond(&before),
            changed: changes(&before, &after),
            already_installed: false,
        })
    }

    fn check(&self, args: &InstallArgs, _: &Installed, context: &Context) -> Result<(), ToolError> {
        let status = self.apt.field("db:Status-Status", &args.name, context)?;
        let version = self.apt.field("Version", &args.name, context)?;
        let right = args
            .version
            .as_ref()
            .is_none_or(|wanted| *wanted == version);
        if status == "installed" && right {
            return Ok(());
        }
        Err(ToolError::new(
            ToolErrorKind::Unverified,
            format!("dpkg says that {} {version} is `{status}`", args.name),
        ))
    }

    fn undo(
        &self,
        args: &InstallArgs,
        pre_image: &PreImage,
        output: Option<&Installed>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        let before = load(pre_image, context)?;
        let mut now = self.apt.packages(context)?;
        if self.apt.repair(&now, context)? {
            now = self.apt.packages(context)?;
        }
        let ours = self.ours(args, &before, &now, output, context)?;
        let mut done = Vec::new();
        if let Some(was) = before.installed(&args.name) {
            done.extend(self.revert(args, was, &now, context)?);
        }
        if !ours.is_empty() {
            if let Some(objection) = self.objection(args, &ours, &now, context)? {
                return Ok(Undone::Refused(objection));
            }
            let ran = self.apt.get("remove", &[], &ours, context)?;
            if !ran.ok {
                return Err(failure::of(
                    &format!("cannot remove {}", ours.join(", ")),
                    &ran,
                ));
            }
            let after = self.apt.packages(context)?;
            let left: Vec<&str> = ours
                .iter()
                .filter(|name| after.installed(name).is_some())
                .map(String::as_str)
                .collect();
            if !left.is_empty() {
                return Err(ToolError::new(
                    ToolErrorKind::Unverified,
                    format!("{} is still installed", left.join(", ")),
                ));
            }
            done.push(format!(
                "removed {}; their data and configuration files stay",
                ours.join(", ")
            ));
        }
        if done.is_empty() {
            return Ok(Undone::Nothing(
                "nothing that the call installed is left".to_owned(),
            ));
        }
        Ok(Undone::Undone(done.join("; ")))
    }
}
