//! Approvals: what waits for a person, shown as the exact action, and decided on that action alone.

use aios_proto::v1::{Approval, DecideApprovalRequest, ListApprovalsRequest};

use super::{connect, follow::Printer};
use crate::{
    cli::Global,
    connect::{Machine, repeatable},
    failure::{Exit, Failure},
    output, texts,
};

async fn pending(machine: &Machine) -> Result<Vec<Approval>, Failure> {
    let reply = repeatable(|| {
        let mut client = machine.orchestrator();
        async move {
            client
                .list_approvals(ListApprovalsRequest {
                    include_decided: false,
                })
                .await
        }
    })
    .await?;
    Ok(reply.approvals)
}

pub(crate) async fn run(
    global: &Global,
    id: &str,
    approve: bool,
    yes: bool,
    reason: String,
) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let approvals = pending(&machine).await?;
    if id == "list" {
        if global.json {
            output::json(&serde_json::json!({ "approvals": approvals }));
        } else if approvals.is_empty() {
            output::line("nothing waits for approval");
        } else {
            for approval in &approvals {
                output::line(text(approval));
            }
        }
        return Ok(Exit::Ok);
    }
    let approval = approvals
        .into_iter()
        .find(|approval| approval.id == id)
        .ok_or_else(|| {
            Failure::not_found(format!("nothing waits for approval under the id {id}"))
                .hint("`aios approve list` shows what does")
        })?;
    if !global.json {
        output::line(text(&approval));
        if approve && !yes && !confirmed().await? {
            output::line("left as it is");
            return Ok(Exit::Failed);
        }
    }
    let decided = decide(&machine, &approval, approve, reason).await?;
    if global.json {
        output::json(&decided);
    } else {
        output::line(format!("{} is {}", decided.id, decided.status));
    }
    Ok(Exit::Ok)
}

/// While a goal is followed: shows what of it waits, and asks the person who is there.
pub(crate) async fn offer(
    machine: &Machine,
    goal: &str,
    printer: &mut Printer,
) -> Result<(), Failure> {
    if printer.quiet() || !printer.waits_for_approval() {
        return Ok(());
    }
    for approval in pending(machine).await? {
        if approval.goal_id != goal || !printer.offered.insert(approval.id.clone()) {
            continue;
        }
        output::line(text(&approval));
        if printer.interactive() {
            let yes = confirmed().await?;
            decide(machine, &approval, yes, String::new()).await?;
        } else {
            output::line(format!(
                "  decide it with: aios approve {} [--deny]",
                approval.id
            ));
        }
    }
    Ok(())
}

/// The hash is that of the action that was shown: if it is another by now, nothing is approved.
async fn decide(
    machine: &Machine,
    approval: &Approval,
    approve: bool,
    reason: String,
) -> Result<Approval, Failure> {
    let mut client = machine.orchestrator();
    let reply = client
        .decide_approval(DecideApprovalRequest {
            id: approval.id.clone(),
            approve,
            action_hash: approval.action_hash.clone(),
            reason,
        })
        .await?;
    Ok(reply.into_inner())
}

async fn confirmed() -> Result<bool, Failure> {
    output::prompt("  approve exactly this? [y/N] ");
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    })
    .await
    .map_err(|error| Failure::failed(error.to_string()))?
    .map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The exact action. Nothing in it is shortened: what is approved must have been seen.
fn text(approval: &Approval) -> String {
    format!(
        "{}  {} (risk {})\n  arguments  {}\n  hash       {}\n  goal {}, asked for by {}, expires {}",
        approval.id,
        approval.tool,
        approval.risk,
        approval.args_json,
        approval.action_hash,
        approval.goal_id,
        approval.requested_by,
        texts::time(approval.expires_ms)
    )
}
