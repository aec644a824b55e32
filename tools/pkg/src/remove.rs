//! `pkg.remove`, and its undo: the same versions again.
//!
//! As Debian's own tools do, it removes the package and what cannot work without it, and leaves
//! configuration files and automatic dependencies alone. With `purge` both go: the configuration
//! files, and the dependencies that nothing else needs once the package is gone.

use std::time::Duration;

use aios_tool_api::{
    Capability, Context, PreImage, Risk, Spec, Tool, ToolError, ToolErrorKind, Undone,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    apt::Apt,
    conffiles::{self, Saved},
    failure,
    install::{load, save},
    lists, name,
    state::{Package, Packages, Stage},
};

/// Arguments of `pkg.remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveArgs {
    /// Debian's name of the package, e.g. `nginx`.
    pub name: String,
    /// Also delete its configuration files, and the dependencies that nothing else needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge: Option<bool>,
}

impl RemoveArgs {
    fn purges(&self) -> bool {
        self.purge == Some(true)
    }

    fn verb(&self) -> &'static str {
        if self.purges() { "purge" } else { "remove" }
    }
}

/// What a removal left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// The package that was asked for.
    pub name: String,
    /// Everything that was removed.
    pub removed: Vec<Package>,
    /// Whether configuration files were deleted.
    pub purged: bool,
    /// False when it was not installed, so that there was nothing to do.
    pub was_installed: bool,
}

/// `pkg.remove`
#[derive(Debug, Clone)]
pub struct Remove {
    apt: Apt,
}

impl Remove {
    /// The tool on the packages that `apt` describes.
    #[must_use]
    pub fn new(apt: Apt) -> Self {
        Self { apt }
    }

    /// What is named to apt: the package and, for a purge, what only it needed.
    fn targets(&self, args: &RemoveArgs, context: &Context) -> Result<Vec<String>, ToolError> {
        let mut names = vec![args.name.clone()];
        if args.purges() {
            let unneeded_already = self.apt.would_remove("autoremove", &[], &[], context)?;
            let all = self
                .apt
                .would_remove("purge", &["--auto-remove"], &names, context)?;
            let more = all
                .into_iter()
                .filter(|name| *name != args.name && !unneeded_already.contains(name));
            names.extend(more);
        }
        Ok(names)
    }

    /// Refuses what aiOS cannot do without, be it asked for or taken along.
    fn refuse_needed(
        &self,
        args: &RemoveArgs,
        names: &[String],
        packages: &Packages,
        context: &Context,
    ) -> Result<(), ToolError> {
        let needed = |name: &String| packages.0.get(name).is_some_and(|entry| entry.needed);
        // apt refuses to simulate the removal of essential packages, so they are looked at first.
        let mut going = names.to_vec();
        if !going.iter().any(needed) {
            going.extend(self.apt.would_remove(args.verb(), &[], names, context)?);
        }
        let mut needed: Vec<&str> = going
            .iter()
            .filter(|name| needed(name))
            .map(String::as_str)
            .collect();
        needed.sort_unstable();
        needed.dedup();
        if needed.is_empty() {
            return Ok(());
        }
        Err(ToolError::new(
            ToolErrorKind::Conflict,
            format!(
                "{} would go, which this machine cannot do without",
                needed.join(", ")
            ),
        )
        .hint("nothing was removed"))
    }

    fn is_known(&self, name: &str, context: &Context) -> Result<bool, ToolError> {
        Ok(lists::candidate(&self.apt, name, context)?.is_some())
    }

    /// Whether there is anything to remove; an unknown name is an error.
    fn has_work(
        &self,
        args: &RemoveArgs,
        packages: &Packages,
        context: &Context,
    ) -> Result<bool, ToolError> {
        match packages.0.get(&args.name).map(|entry| entry.stage) {
            Some(Stage::Installed | Stage::Unfinished) => Ok(true),
            Some(Stage::ConfigFiles) => Ok(args.purges()),
            None if self.is_known(&args.name, context)? => Ok(false),
            None => Err(ToolError::new(
                ToolErrorKind::NotFound,
                format!("there is no package `{}`", args.name),
            )
            .hint("pkg.list shows what is installed")),
        }
    }
}

impl Tool for Remove {
    type Args = RemoveArgs;
    type Output = Removed;

    fn spec(&self) -> Spec {
        Spec {
            name: "pkg.remove",
            summary: "Remove a Debian package and what cannot work without it. Stop its service \
                      first. Refuses packages that the machine cannot do without.",
            risk: Risk::High,
            undo: Some("reinstall the same versions and configuration files"),
            idempotent: true,
            deadline: Duration::from_secs(600),
            capability: ("pkg", "remove"),
        }
    }

    fn normalise(&self, args: RemoveArgs, _: &Context) -> Result<RemoveArgs, ToolError> {
        Ok(RemoveArgs {
            name: name::canonical(&args.name)?,
            purge: args.purge.filter(|purge| *purge),
        })
    }

    fn capabilities(&self, args: &RemoveArgs) -> Vec<Capability> {
        vec![Capability::new("pkg", "remove").on(&args.name)]
    }

    fn pre_image(
        &self,
        args: &RemoveArgs,
        context: &Context,
    ) -> Result<Option<PreImage>, ToolError> {
        let packages = self.apt.packages(context)?;
        let mut files: Vec<Saved> = Vec::new();
        if self.has_work(args, &packages, context)? {
            self.refuse_needed(args, std::slice::from_ref(&args.name), &packages, context)?;
            if args.purges() {
                // What goes along with the package loses its configuration, too.
                let names = self.targets(args, context)?;
                let going = self.apt.would_remove("purge", &[], &names, context)?;
                files = conffiles::save(&self.apt, &going, context)?;
            }
        }
        let packages = save(&packages, context)?;
        Ok(Some(PreImage {
            data: json!({ "packages": packages, "files": files }),
        }))
    }

    fn execute(&self, args: &RemoveArgs, context: &Context) -> Result<Removed, ToolError> {
        let mut before = self.apt.packages(context)?;
        if self.apt.repair(&before, context)? {
            before = self.apt.packages(context)?;
        }
        let mut output = Removed {
            name: args.name.clone(),
            removed: Vec::new(),
            purged: false,
            was_installed: before.installed(&args.name).is_some(),
        };
        if !self.has_work(args, &before, context)? {
            return Ok(output);
        }
        self.refuse_needed(args, std::slice::from_ref(&args.name), &before, context)?;
        let names = self.targets(args, context)?;
        self.refuse_needed(args, &names, &before, context)?;
        let ran = self.apt.get(args.verb(), &[], &names, context)?;
        if !ran.ok {
            return Err(failure::of(&format!("cannot remove {}", args.name), &ran));
        }
        output.removed = before.installed_beyond(&self.apt.packages(context)?);
        output.purged = args.purges();
        Ok(output)
    }

    fn check(&self, args: &RemoveArgs, _: &Removed, context: &Context) -> Result<(), ToolError> {
        let packages = self.apt.packages(context)?;
        let gone = match packages.0.get(&args.name).map(|entry| entry.stage) {
            None => true,
            Some(Stage::ConfigFiles) => !args.purges(),
            Some(Stage::Installed | Stage::Unfinished) => false,
        };
        if gone {
            return Ok(());
        }
        Err(ToolError::new(
            ToolErrorKind::Unverified,
            format!("dpkg still has {}", args.name),
        ))
    }

    fn undo(
        &self,
        args: &RemoveArgs,
        pre_image: &PreImage,
        output: Option<&Removed>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        let before = load(pre_image, context)?;
        let mut now = self.apt.packages(context)?;
        if self.apt.repair(&now, context)? {
            now = self.apt.packages(context)?;
        }
        let removed = |name: &str| match output {
            Some(output) => output.removed.iter().any(|package| package.name == name),
            None => name == args.name,
        };
        let missing: Vec<Package> = before
            .installed_beyond(&now)
            .into_iter()
            .filter(|package| removed(&package.name))
            .collect();
        if missing.is_empty() {
            return Ok(Undone::Nothing(format!(
                "everything that was removed with {} is installed",
                args.name
            )));
        }
        let exact: Vec<String> = missing
            .iter()
            .map(|package| format!("{}={}", package.name, package.version))
            .collect();
        let ran = self.apt.get(
            "install",
            &["--no-remove", "--allow-downgrades"],
            &exact,
            context,
        )?;
        if !ran.ok {
            let error = failure::of(&format!("cannot install {} again", exact.join(", ")), &ran);
            return if error.kind == ToolErrorKind::Conflict && !error.retryable {
                Ok(Undone::Refused(format!(
                    "{}; {}",
                    error.message, error.hint
                )))
            } else {
                Err(error)
            };
        }
        let auto: Vec<String> = missing
            .iter()
            .filter(|package| {
                before
                    .installed(&package.name)
                    .is_some_and(|entry| entry.auto)
            })
            .map(|package| package.name.clone())
            .collect();
        if !auto.is_empty() {
            self.apt.mark("auto", &auto, context)?;
        }
        let files = pre_image.data.get("files").cloned().unwrap_or_default();
        let files: Vec<Saved> = serde_json::from_value(files).map_err(|error| {
            ToolError::new(
                ToolErrorKind::Internal,
                format!("recorded configuration files: {error}"),
            )
        })?;
        let restored = conffiles::restore(&files, context)?;
        let after = self.apt.packages(context)?;
        let wrong = missing.iter().find(|package| {
            after
                .installed(&package.name)
                .is_none_or(|entry| entry.version != package.version)
        });
        if let Some(package) = wrong {
            return Err(ToolError::new(
                ToolErrorKind::Unverified,
                format!(
                    "{} {} is not installed again",
                    package.name, package.version
                ),
            ));
        }
        Ok(Undone::Undone(format!(
            "installed {} again, with {} configuration files as they were",
            exact.join(", "),
            restored.len()
        )))
    }
}
