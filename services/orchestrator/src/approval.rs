//! Approvals: a person's word on one exact action. Each is bound to the hash of the tool and its
//! canonical arguments, has an end, and is stored as a decision of its goal.
//!
//! Invariants: an approval decides once; it decides nothing for another hash or after its end.

use aios_kit::{Category, Error as KitError};
use aios_proto::v1;
use serde::{Deserialize, Serialize};

/// The stored form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Unique; made from the task's id.
    pub id: String,
    /// The goal.
    pub goal_id: String,
    /// The task.
    pub task_id: String,
    /// What would be called.
    pub tool: String,
    /// With which canonical arguments.
    pub args_json: String,
    /// `low` … `critical`.
    pub risk: String,
    /// Of the tool and its arguments.
    pub action_hash: String,
    /// Who asked for the goal.
    pub requested_by: String,
    /// When, in milliseconds since the epoch.
    pub created_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
    /// Where it stands.
    pub status: Status,
    /// Who decided.
    pub decided_by: String,
    /// Why.
    pub reason: String,
}

/// Where an approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nobody has decided.
    Pending,
    /// It may be done.
    Approved,
    /// It may not be done.
    Denied,
    /// Nobody decided in time.
    Expired,
}

impl Status {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
        }
    }
}

impl Approval {
    /// Whether this decision can be made now.
    ///
    /// # Errors
    /// When it is decided already, its time is over, or the hash is of another action.
    pub fn may_decide(&self, action_hash: &str, now_ms: u64) -> Result<(), KitError> {
        let no = |message: String, hint: &str| {
            Err(KitError::new(Category::Conflict, message).hint(hint))
        };
        if self.status != Status::Pending {
            return no(
                format!("approval {} is {} already", self.id, self.status.name()),
                "",
            );
        }
        if now_ms >= self.expires_ms {
            return no(
                format!("approval {} has expired", self.id),
                "submit the goal again",
            );
        }
        if action_hash != self.action_hash {
            return no(
                format!(
                    "the decision is for another action than approval {}",
                    self.id
                ),
                "list the approvals, and decide on the action that is shown there by its action_hash",
            );
        }
        Ok(())
    }

    /// The form on the wire.
    #[must_use]
    pub fn wire(&self) -> v1::Approval {
        v1::Approval {
            id: self.id.clone(),
            goal_id: self.goal_id.clone(),
            task_id: self.task_id.clone(),
            tool: self.tool.clone(),
            args_json: self.args_json.clone(),
            risk: self.risk.clone(),
            action_hash: self.action_hash.clone(),
            requested_by: self.requested_by.clone(),
            created_ms: self.created_ms,
            expires_ms: self.expires_ms,
            status: self.status.name().to_owned(),
            decided_by: self.decided_by.clone(),
            reason: self.reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_decides_once_in_time_and_on_its_own_action() {
        let approval = Approval {
            id: "a".into(),
            goal_id: "g".into(),
            task_id: "t".into(),
            tool: "x.y".into(),
            args_json: "{}".into(),
            risk: "high".into(),
            action_hash: "h".into(),
            requested_by: "p".into(),
            created_ms: 1,
            expires_ms: 10,
            status: Status::Pending,
            decided_by: String::new(),
            reason: String::new(),
        };
        approval.may_decide("h", 9).unwrap();
        assert!(
            approval
                .may_decide("H", 9)
                .unwrap_err()
                .message()
                .contains("another action")
        );
        assert!(approval.may_decide("", 9).is_err());
        assert!(
            approval
                .may_decide("h", 10)
                .unwrap_err()
                .message()
                .contains("expired")
        );
        for status in [Status::Approved, Status::Denied, Status::Expired] {
            assert!(
                Approval {
                    status,
                    ..approval.clone()
                }
                .may_decide("h", 9)
                .is_err()
            );
        }
    }
}
