//! Every tool family that this daemon offers, in one place.

use aios_tool_api::Registry;

/// All tools.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    aios_tool_fs::register(&mut registry);
    aios_tool_net::register(&mut registry);
    aios_tool_service::register(&mut registry);
    registry
}
