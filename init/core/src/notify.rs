//! The datagrams by which a service speaks to PID 1 (`sd_notify`): lines of `KEY=value`. Unknown
//! keys are ignored, as the protocol asks; whatever is too long or no text is dropped.

/// A datagram longer than this is not looked at.
pub const MAX_NOTIFICATION_BYTES: usize = 4096;
/// Characters of a status that are kept.
const MAX_STATUS_CHARS: usize = 512;

/// What a service said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notification {
    /// It is ready.
    pub ready: bool,
    /// What it does, for a person.
    pub status: Option<String>,
}

impl Notification {
    /// Reads a datagram.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Self {
        let mut notification = Self::default();
        if datagram.len() > MAX_NOTIFICATION_BYTES {
            return notification;
        }
        let Ok(text) = std::str::from_utf8(datagram) else {
            return notification;
        };
        for line in text.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => notification.ready = true,
                Some(("STATUS", status)) => {
                    let clean = status.chars().filter(|c| !c.is_control());
                    notification.status = Some(clean.take(MAX_STATUS_CHARS).collect());
                }
                _ => {}
            }
        }
        notification
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_and_status_are_read() {
        let said = Notification::parse(b"STATUS=model loaded\nREADY=1\nX_OTHER=5\n");
        assert!(said.ready);
        assert_eq!(said.status.as_deref(), Some("model loaded"));
        assert!(!Notification::parse(b"READY=0").ready);
        assert!(!Notification::parse(b"READY=1\xff").ready);
        assert!(!Notification::parse(&[b'a'; MAX_NOTIFICATION_BYTES + 1]).ready);
    }

    #[test]
    fn a_status_cannot_carry_terminal_codes_or_a_novel() {
        let said = Notification::parse(format!("STATUS=\u{1b}[2J{}", "x".repeat(1000)).as_bytes());
        let status = said.status.unwrap();
        assert!(!status.contains('\u{1b}'));
        assert_eq!(status.chars().count(), MAX_STATUS_CHARS);
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_is_too_strange(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..5000)) {
            let said = Notification::parse(&bytes);
            proptest::prop_assert!(said.status.is_none_or(|s| s.chars().count() <= MAX_STATUS_CHARS));
        }
    }
}
