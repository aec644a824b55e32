//! The programs, where they are, and how they are called.

use std::path::{Path, PathBuf};

use aios_tool_api::{Context, ToolError};

use crate::{
    failure,
    run::{Ran, run},
    state::{FORMAT, Packages, parse},
};

/// Longest wait for the lock of another apt or dpkg, in seconds.
const LOCK_WAIT: u64 = 60;

/// apt and dpkg of a machine. The default is the one that the process runs on.
#[derive(Debug, Clone)]
pub struct Apt {
    /// `apt-get`
    pub apt_get: PathBuf,
    /// `apt-cache`
    pub apt_cache: PathBuf,
    /// `apt-mark`
    pub apt_mark: PathBuf,
    /// `dpkg`
    pub dpkg: PathBuf,
    /// `dpkg-query`
    pub dpkg_query: PathBuf,
    /// Configuration of apt (`sources.list` and the folders beside it).
    pub etc: PathBuf,
    /// The lists of the package sources.
    pub lists: PathBuf,
    /// Options that every program of apt gets first.
    pub apt_options: Vec<String>,
    /// Options that `dpkg` and `dpkg-query` get first.
    pub dpkg_options: Vec<String>,
}

impl Default for Apt {
    fn default() -> Self {
        Self {
            apt_get: "/usr/bin/apt-get".into(),
            apt_cache: "/usr/bin/apt-cache".into(),
            apt_mark: "/usr/bin/apt-mark".into(),
            dpkg: "/usr/bin/dpkg".into(),
            dpkg_query: "/usr/bin/dpkg-query".into(),
            etc: "/etc/apt".into(),
            lists: "/var/lib/apt/lists".into(),
            apt_options: Vec::new(),
            dpkg_options: Vec::new(),
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Apt {
    fn call(
        &self,
        program: &Path,
        options: &[String],
        args: &[String],
        context: &Context,
    ) -> Result<Ran, ToolError> {
        let all: Vec<String> = options.iter().chain(args).cloned().collect();
        run(program, &all, context)
    }

    /// `apt-get`, without questions. `names` are put behind `--`.
    pub(crate) fn get(
        &self,
        verb: &str,
        options: &[&str],
        names: &[String],
        context: &Context,
    ) -> Result<Ran, ToolError> {
        let wait = LOCK_WAIT.min(context.remaining().as_secs() / 2);
        let mut args = words(&[
            "-y",
            "-q",
            "--no-install-recommends",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "Dpkg::Options::=--force-confold",
            "-o",
            "Dpkg::Options::=--force-confdef",
            "-o",
            "Acquire::Retries=2",
            "-o",
            "Acquire::http::Timeout=20",
            "-o",
            "Acquire::https::Timeout=20",
            "-o",
            "APT::Update::Error-Mode=any",
        ]);
        args.extend(["-o".to_owned(), format!("DPkg::Lock::Timeout={wait}")]);
        args.extend(words(options));
        args.push(verb.to_owned());
        if !names.is_empty() {
            args.push("--".to_owned());
            args.extend_from_slice(names);
        }
        self.call(&self.apt_get, &self.apt_options, &args, context)
    }

    /// The packages that `apt-get VERB` would remove or purge, without doing it.
    pub(crate) fn would_remove(
        &self,
        verb: &str,
        options: &[&str],
        names: &[String],
        context: &Context,
    ) -> Result<Vec<String>, ToolError> {
        let options: Vec<&str> = std::iter::once("-s")
            .chain(options.iter().copied())
            .collect();
        let ran = self.get(verb, &options, names, context)?;
        if !ran.ok {
            return Err(failure::of(
                &format!("cannot work out what {verb} would do"),
                &ran,
            ));
        }
        Ok(removals(&ran.stdout))
    }

    /// `apt-cache`
    pub(crate) fn cache(&self, args: &[String], context: &Context) -> Result<Ran, ToolError> {
        self.call(&self.apt_cache, &self.apt_options, args, context)
    }

    /// Says whether packages were asked for (`manual`) or came along (`auto`).
    pub(crate) fn mark(
        &self,
        flag: &str,
        names: &[String],
        context: &Context,
    ) -> Result<(), ToolError> {
        let mut args = words(&[flag, "--"]);
        args.extend_from_slice(names);
        let ran = self.call(&self.apt_mark, &self.apt_options, &args, context)?;
        if ran.ok {
            return Ok(());
        }
        Err(failure::of(
            &format!("cannot mark {} as {flag}", names.join(", ")),
            &ran,
        ))
    }

    /// What is installed.
    pub(crate) fn packages(&self, context: &Context) -> Result<Packages, ToolError> {
        let query = self.call(
            &self.dpkg_query,
            &self.dpkg_options,
            &words(&["-W", FORMAT]),
            context,
        )?;
        // A machine without any packages is no failure; dpkg-query then says so and prints nothing.
        if !query.ok && !query.stderr.contains("no packages found") {
            return Err(failure::of("cannot list the packages", &query));
        }
        let auto = self.call(
            &self.apt_mark,
            &self.apt_options,
            &words(&["showauto"]),
            context,
        )?;
        if !auto.ok {
            return Err(failure::of("cannot list the automatic packages", &auto));
        }
        Ok(parse(&query.stdout, &auto.stdout))
    }

    /// A field of an installed package.
    pub(crate) fn field(
        &self,
        field: &str,
        name: &str,
        context: &Context,
    ) -> Result<String, ToolError> {
        let args = [
            words(&["-W"]),
            vec![format!("-f=${{{field}}}"), "--".into(), name.to_owned()],
        ]
        .concat();
        let ran = self.call(&self.dpkg_query, &self.dpkg_options, &args, context)?;
        if !ran.ok {
            return Err(failure::of(&format!("cannot look at {name}"), &ran));
        }
        Ok(ran.stdout)
    }

    /// Finishes what an earlier run left unfinished, if anything.
    pub(crate) fn repair(&self, packages: &Packages, context: &Context) -> Result<bool, ToolError> {
        let unfinished = packages.unfinished();
        if unfinished.is_empty() {
            return Ok(false);
        }
        let args = words(&["--force-confold", "--force-confdef", "--configure", "-a"]);
        let ran = self.call(&self.dpkg, &self.dpkg_options, &args, context)?;
        if !ran.ok {
            let what = format!(
                "an earlier run was interrupted and cannot be finished ({})",
                unfinished.join(", ")
            );
            return Err(failure::of(&what, &ran));
        }
        Ok(true)
    }
}

/// The packages that a simulation says would go.
fn removals(simulation: &str) -> Vec<String> {
    let mut names: Vec<String> = simulation
        .lines()
        .filter_map(|line| {
            line.strip_prefix("Remv ")
                .or_else(|| line.strip_prefix("Purg "))
        })
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_read_from_a_simulation() {
        let text = "NOTE: This is only a simulation!\nRemv nginx [1.22]\nPurg nginx-common [1.22]\nInst x (1)\n";
        assert_eq!(removals(text), ["nginx", "nginx-common"]);
    }
}
