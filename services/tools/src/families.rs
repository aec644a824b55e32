//! Every tool family that this daemon offers, in one place.

use aios_tool_api::Registry;

/// All tools.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    for register in [
        aios_tool_fs::register,
        aios_tool_hw::register,
        aios_tool_monitor::register,
        aios_tool_net::register,
        aios_tool_pkg::register,
        aios_tool_process::register,
        aios_tool_service::register,
    ] {
        register(&mut registry);
    }
    registry
}
