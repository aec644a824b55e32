//! Autonomy level × risk → allow, ask or deny (requirement I-27). A pure table.
//!
//! Invariants: a higher risk is never treated more freely than a lower one, a stricter level never
//! more freely than a laxer one, and a plan by a model never more freely than the same plan by a
//! procedure. A risk that nobody knows is denied.

use aios_kit::config::AutonomyLevel;
use aios_tool_api::Risk;

/// What the policy says about one action.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It may run.
    Allow,
    /// A person has to approve this exact action.
    Ask,
    /// It may not run.
    Deny,
}

impl Verdict {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// Who wrote the plan that an action is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A typed procedure that was reviewed before it was installed.
    Procedure,
    /// A language model, on the spot.
    Model,
}

/// The risk of that name.
#[must_use]
pub fn risk(name: &str) -> Option<Risk> {
    [Risk::Low, Risk::Medium, Risk::High, Risk::Critical]
        .into_iter()
        .find(|risk| risk.name() == name)
}

/// What the level says about an action of this risk (`None`: a risk that is not known).
#[must_use]
pub fn decide(level: AutonomyLevel, origin: Origin, risk: Option<Risk>) -> Verdict {
    let Some(risk) = risk else {
        return Verdict::Deny;
    };
    let asks_from = match (level, origin) {
        (AutonomyLevel::Full, Origin::Procedure) => Risk::Critical,
        (AutonomyLevel::Full, Origin::Model) | (AutonomyLevel::Supervised, Origin::Procedure) => {
            Risk::High
        }
        (AutonomyLevel::Supervised, Origin::Model) | (AutonomyLevel::Manual, _) => Risk::Medium,
    };
    if risk >= asks_from {
        Verdict::Ask
    } else {
        Verdict::Allow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [AutonomyLevel; 3] = [
        AutonomyLevel::Full,
        AutonomyLevel::Supervised,
        AutonomyLevel::Manual,
    ];
    const RISKS: [Risk; 4] = [Risk::Low, Risk::Medium, Risk::High, Risk::Critical];

    #[test]
    fn the_table_is_the_one_that_is_promised() {
        use Verdict::{Allow, Ask};
        let row = |level, origin| RISKS.map(|risk| decide(level, origin, Some(risk)));
        assert_eq!(
            row(AutonomyLevel::Full, Origin::Procedure),
            [Allow, Allow, Allow, Ask]
        );
        assert_eq!(
            row(AutonomyLevel::Supervised, Origin::Procedure),
            [Allow, Allow, Ask, Ask]
        );
        assert_eq!(
            row(AutonomyLevel::Manual, Origin::Procedure),
            [Allow, Ask, Ask, Ask]
        );
        assert_eq!(
            row(AutonomyLevel::Full, Origin::Model),
            [Allow, Allow, Ask, Ask]
        );
        assert_eq!(
            row(AutonomyLevel::Supervised, Origin::Model),
            [Allow, Ask, Ask, Ask]
        );
    }

    #[test]
    fn it_is_monotone_and_denies_what_it_does_not_know() {
        for origin in [Origin::Procedure, Origin::Model] {
            for (index, level) in LEVELS.into_iter().enumerate() {
                assert_eq!(decide(level, origin, None), Verdict::Deny);
                for pair in RISKS.windows(2) {
                    assert!(
                        decide(level, origin, Some(pair[0]))
                            <= decide(level, origin, Some(pair[1]))
                    );
                }
                for risk in RISKS {
                    assert!(
                        decide(level, Origin::Procedure, Some(risk))
                            <= decide(level, Origin::Model, Some(risk))
                    );
                    if let Some(stricter) = LEVELS.get(index + 1) {
                        assert!(
                            decide(level, origin, Some(risk))
                                <= decide(*stricter, origin, Some(risk))
                        );
                    }
                }
            }
        }
        assert_eq!(risk("medium"), Some(Risk::Medium));
        assert_eq!(risk("harmless"), None);
    }
}
