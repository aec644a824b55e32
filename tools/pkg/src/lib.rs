//! The `pkg.*` tools: Debian packages, through the machine's own apt and dpkg.
//!
//! Invariants: programs are run by argv with a fixed environment and no input; a name reaches them
//! only after it fits Debian's grammar and is known to dpkg or apt, so that it can be neither an
//! option nor a pattern nor one of apt's `name-` and `name+` forms; what was interrupted is repaired
//! before anything new begins; what aiOS needs to work cannot be removed.
//!
//! Packages do not start services on aiOS (`policy-rc.d` forbids it); service.define and
//! service.start do.

mod apt;
mod conffiles;
mod failure;
mod install;
mod lists;
mod name;
mod read;
mod remove;
mod run;
mod state;

#[cfg(test)]
mod test_root;
#[cfg(test)]
mod tests;

pub use apt::Apt;
pub use install::{Install, InstallArgs, Installed, VersionChange};
pub use read::{Found, List, ListArgs, Listed, ListedPackage, Search, SearchArgs, SearchHit};
pub use remove::{Remove, RemoveArgs, Removed};
pub use state::Package;

use aios_tool_api::Registry;

/// Adds every tool of the family, working on this machine's packages.
pub fn register(registry: &mut Registry) {
    register_with(registry, &Apt::default());
}

/// Adds every tool of the family, working on the packages that `apt` describes.
pub fn register_with(registry: &mut Registry, apt: &Apt) {
    registry.add(Search::new(apt.clone()));
    registry.add(List::new(apt.clone()));
    registry.add(Install::new(apt.clone()));
    registry.add(Remove::new(apt.clone()));
}
