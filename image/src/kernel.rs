//! Linux 6.12 from Debian's source package, configured from `kernel-config/*.config`.
//!
//! Invariant: every option that a fragment asks for is in the final configuration as asked;
//! otherwise the build fails and names the option.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache::{self, Key},
    command, workspace,
};

/// Where Debian puts the source.
const SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Builds the kernel, or finds it in the cache; returns the path of its bzImage.
///
/// # Errors
/// When the source is missing, an option did not make it, or the build fails.
pub fn build() -> Result<PathBuf> {
    let started = Instant::now();
    let fragments = fragments(&workspace::root()?.join("kernel-config"))?;
    let mut key = Key::new("kernel 1");
    key.text("source", &source_version()?);
    for fragment in &fragments {
        key.file(fragment)?;
    }
    let (dir, cached) = cache::product("kernel", &key.finish(), |dir| {
        command::say("Building the kernel (about 6 minutes on 2 fast cores, once) …");
        compile(dir, &fragments)
    })?;
    command::say_done(if cached { "kernel (cached)" } else { "kernel" }, started);
    Ok(dir.join("vmlinuz"))
}

fn fragments(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "config")
        })
        .collect();
    files.sort();
    Ok(files)
}

/// The version of the source package; the archive itself is too large to hash at every start.
fn source_version() -> Result<String> {
    command::output(Command::new("dpkg-query").args([
        "--show",
        "--showformat=${Version}",
        "linux-source-6.12",
    ]))
    .context("the package linux-source-6.12 is not installed")
}

fn compile(dir: &Path, fragments: &[PathBuf]) -> Result<()> {
    let log = workspace::cache()?.join("log/kernel.log");
    let work = dir.join("work");
    fs::create_dir(&work)?;
    command::run(
        "unpacking the kernel source",
        Command::new("tar")
            .arg("-C")
            .arg(&work)
            .args(["-xf", SOURCE]),
        &log,
    )?;
    let tree = work.join("linux-source-6.12");
    let out = work.join("out");
    fs::create_dir(&out)?;
    command::run(
        "merging the kernel configuration",
        Command::new("./scripts/kconfig/merge_config.sh")
            .current_dir(&tree)
            .args(["-n", "-O"])
            .arg(&out)
            .args(fragments),
        &log,
    )?;
    let mut asked = String::new();
    for fragment in fragments {
        asked.push_str(&fs::read_to_string(fragment)?);
        asked.push('\n');
    }
    let missing = unmet(&asked, &fs::read_to_string(out.join(".config"))?);
    if !missing.is_empty() {
        bail!(
            "kernel-config/ asks for options that the kernel does not have as asked (a dependency \
             is missing, or the option is gone):\n  {}",
            missing.join("\n  ")
        );
    }
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    command::run(
        "building the kernel",
        Command::new("make")
            .current_dir(&tree)
            .arg(format!("O={}", out.display()))
            .arg(format!("-j{jobs}"))
            .arg("bzImage")
            // A kernel that is built twice is the same kernel.
            .env("KBUILD_BUILD_TIMESTAMP", "2026-01-01")
            .env("KBUILD_BUILD_USER", "aios")
            .env("KBUILD_BUILD_HOST", "aios"),
        &log,
    )?;
    fs::copy(out.join("arch/x86/boot/bzImage"), dir.join("vmlinuz"))?;
    fs::copy(out.join(".config"), dir.join("config"))?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// The options that fragments ask for and a final configuration does not have as asked, each with
/// what it has instead. A later fragment overrides an earlier one.
#[must_use]
pub fn unmet(asked: &str, got: &str) -> Vec<String> {
    let got = options(got);
    options(asked)
        .into_iter()
        .filter_map(|(name, wanted)| {
            let has = got.get(&name).map_or("n", String::as_str);
            (has != wanted).then(|| format!("{name}: asked for {wanted}, has {has}"))
        })
        .collect()
}

fn options(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            if let Some(unset) = line.strip_prefix("# ") {
                let name = unset.strip_suffix(" is not set")?;
                return Some((name.to_owned(), "n".to_owned()));
            }
            let (name, value) = line.split_once('=')?;
            name.starts_with("CONFIG_")
                .then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_did_not_make_it_is_named() {
        let asked =
            "# why\nCONFIG_A=y\nCONFIG_B=n\n# CONFIG_C is not set\nCONFIG_D=\"x\"\nCONFIG_E=y\n";
        let got = "CONFIG_A=y\nCONFIG_D=\"y\"\n# CONFIG_E is not set\n";
        assert_eq!(
            unmet(asked, got),
            [
                "CONFIG_D: asked for \"x\", has \"y\"",
                "CONFIG_E: asked for y, has n"
            ]
        );
    }
}
