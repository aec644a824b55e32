//! The network cards. Addresses are no hardware: `net.interfaces` tells them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::Source;

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Nic {
    /// Interface name.
    pub name: String,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Whether there is a signal; absent while the interface is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<bool>,
    /// Speed in megabits per second; absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_mbit: Option<u32>,
    /// Whether it is a radio.
    pub wireless: bool,
}

pub(crate) fn read(source: &Source) -> Vec<Nic> {
    source
        .names("/sys/class/net")
        .into_iter()
        // What has no device is made by software: loopback, bridges, tunnels.
        .filter(|name| source.exists(&format!("/sys/class/net/{name}/device")))
        .map(|name| {
            let text = |file: &str| source.text(&format!("/sys/class/net/{name}/{file}"));
            Nic {
                mac: text("address"),
                driver: source.link_name(&format!("/sys/class/net/{name}/device/driver")),
                link: text("carrier").map(|carrier| carrier == "1"),
                // The kernel says -1 when there is no link.
                speed_mbit: text("speed").and_then(|speed| speed.parse().ok()),
                wireless: source.exists(&format!("/sys/class/net/{name}/wireless")),
                name,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::machine;

    #[test]
    fn cards_are_told_from_what_software_makes() {
        let (_dir, source) = machine(&[
            ("/sys/class/net/lo/address", "00:00:00:00:00:00"),
            ("/sys/class/net/eth0/address", "52:54:00:12:34:56\n"),
            ("/sys/class/net/eth0/carrier", "1"),
            ("/sys/class/net/eth0/speed", "-1"),
            (
                "/sys/class/net/eth0/device/driver",
                "-> ../../../bus/virtio/drivers/virtio_net",
            ),
            ("/sys/class/net/wlan0/device/vendor", "0x8086"),
            ("/sys/class/net/wlan0/wireless/x", ""),
        ]);
        let nics = read(&source);
        assert_eq!(nics.len(), 2);
        assert_eq!(nics[0].mac.as_deref(), Some("52:54:00:12:34:56"));
        assert_eq!(nics[0].driver.as_deref(), Some("virtio_net"));
        assert_eq!((nics[0].link, nics[0].speed_mbit), (Some(true), None));
        assert!(nics[1].wireless && nics[1].link.is_none());
    }
}
