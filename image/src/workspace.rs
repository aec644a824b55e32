//! Where the checkout and the cache are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The root of the checkout that this program was built from.
///
/// # Errors
/// When the checkout is gone.
pub fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .filter(|root| root.join("Cargo.toml").exists())
        .map(Path::to_owned)
        .with_context(|| {
            format!(
                "{} is not in a checkout of aiOS any more; run `cargo image` in the checkout",
                manifest.display()
            )
        })
}

/// The cache: `$XDG_CACHE_HOME/aios`, or `~/.cache/aios`.
///
/// # Errors
/// When neither variable is set.
pub fn cache() -> Result<PathBuf> {
    env::var_os("XDG_CACHE_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .map(|cache| cache.join("aios"))
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is nowhere to cache builds")
}

/// Where finished products of this checkout are put.
///
/// # Errors
/// When the checkout is gone.
pub fn build_dir() -> Result<PathBuf> {
    Ok(root()?.join("build"))
}
