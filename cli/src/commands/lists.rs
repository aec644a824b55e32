//! What there is: agents, models, memory, events.

use std::time::Duration;

use aios_proto::v1::{
    Empty, ListEventsRequest, LoadModelRequest, MemoryEvent, SearchMemoryRequest,
    UnloadModelRequest,
};
use tokio::time::Instant;

use super::{connect, goal::LOST_CONTACT};
use crate::{
    cli::{Global, MemoryCommand, ModelCommand},
    connect::repeatable,
    failure::{Exit, Failure, interrupted},
    output, texts,
};

pub(crate) async fn agents(global: &Global) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let reply = repeatable(|| {
        let mut client = machine.orchestrator();
        async move { client.list_agents(Empty {}).await }
    })
    .await?;
    if global.json {
        output::json(&reply);
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = reply
        .agents
        .into_iter()
        .map(|agent| {
            vec![
                agent.name,
                agent.state,
                agent.health,
                format!("{}/{}", agent.running_tasks, agent.max_tasks),
                agent.tasks_done.to_string(),
                agent.tasks_failed.to_string(),
                agent.restarts.to_string(),
                agent.tools.join(" "),
            ]
        })
        .collect();
    let header = [
        "NAME", "STATE", "HEALTH", "RUNNING", "DONE", "FAILED", "RESTARTS", "TOOLS",
    ];
    output::line(texts::table(&header, &rows));
    Ok(Exit::Ok)
}

pub(crate) async fn models(global: &Global, command: ModelCommand) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let models = match command {
        ModelCommand::List => {
            let reply = repeatable(|| {
                let mut client = machine.runtime();
                async move { client.list_models(Empty {}).await }
            })
            .await?;
            reply.models
        }
        ModelCommand::Load { name } => {
            let mut client = machine.runtime();
            vec![
                client
                    .load_model(LoadModelRequest { name })
                    .await?
                    .into_inner(),
            ]
        }
        ModelCommand::Unload { name } => {
            let mut client = machine.runtime();
            client
                .unload_model(UnloadModelRequest { name: name.clone() })
                .await?;
            if global.json {
                output::json(&serde_json::json!({ "unloaded": name }));
            } else {
                output::line(format!("{name} is unloaded"));
            }
            return Ok(Exit::Ok);
        }
    };
    if global.json {
        output::json(&serde_json::json!({ "models": models }));
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = models
        .into_iter()
        .map(|model| {
            let mut notes = Vec::new();
            if model.operational {
                notes.push("operational".to_owned());
            }
            if !model.trained {
                notes.push("untrained".to_owned());
            }
            if !model.reason.is_empty() {
                notes.push(model.reason);
            }
            vec![
                model.name,
                model.state,
                texts::bytes(model.size_bytes),
                model.parameters.to_string(),
                model.context_tokens.to_string(),
                notes.join(", "),
            ]
        })
        .collect();
    let header = ["NAME", "STATE", "SIZE", "PARAMETERS", "CONTEXT", "NOTES"];
    output::line(texts::table(&header, &rows));
    Ok(Exit::Ok)
}

pub(crate) async fn memory(global: &Global, command: MemoryCommand) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    match command {
        MemoryCommand::Events { kind, goal, limit } => {
            // The oldest come first and the ring is bounded, so the newest are the end of all.
            let request = ListEventsRequest {
                after_seq: 0,
                limit: u32::MAX,
                kind: kind.unwrap_or_default(),
                goal_id: goal.unwrap_or_default(),
            };
            let mut reply = repeatable(|| {
                let mut client = machine.memory();
                let request = request.clone();
                async move { client.list_events(request).await }
            })
            .await?;
            newest(
                &mut reply.events,
                usize::try_from(limit).unwrap_or(usize::MAX),
            );
            if global.json {
                output::json(&reply);
            } else {
                for event in &reply.events {
                    output::line(event_line(event));
                }
            }
        }
        MemoryCommand::Search { query, limit } => {
            let request = SearchMemoryRequest {
                query: query.join(" "),
                limit,
            };
            let reply = repeatable(|| {
                let mut client = machine.memory();
                let request = request.clone();
                async move { client.search_memory(request).await }
            })
            .await?;
            if global.json {
                output::json(&reply);
            } else {
                for hit in &reply.hits {
                    output::line(format!("{:.3}  {}  {}", hit.score, hit.source, hit.text));
                }
            }
        }
    }
    Ok(Exit::Ok)
}

/// Keeps the last ones.
fn newest<T>(items: &mut Vec<T>, count: usize) {
    items.drain(..items.len().saturating_sub(count));
}

fn event_line(event: &MemoryEvent) -> String {
    let goal = if event.goal_id.is_empty() {
        String::new()
    } else {
        format!("  (goal {})", event.goal_id)
    };
    format!(
        "{}  {:<8} {:<13} {}{goal}",
        texts::time(event.time_ms),
        event.kind,
        event.source,
        event.summary
    )
}

/// Prints events, and goes on with new ones; with `--json` one object on each line.
pub(crate) async fn events(
    global: &Global,
    kind: Option<String>,
    goal: Option<String>,
    follow: bool,
) -> Result<Exit, Failure> {
    if !follow {
        return memory(
            global,
            MemoryCommand::Events {
                kind,
                goal,
                limit: 1000,
            },
        )
        .await;
    }
    let machine = connect(global).await?;
    let mut request = ListEventsRequest {
        after_seq: 0,
        limit: 0,
        kind: kind.unwrap_or_default(),
        goal_id: goal.unwrap_or_default(),
    };
    let mut contact = Instant::now();
    loop {
        let problem = match machine.memory().watch_events(request.clone()).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(event)) => {
                            contact = Instant::now();
                            request.after_seq = event.seq;
                            if global.json {
                                output::json_line(&event);
                            } else {
                                output::line(event_line(&event));
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        if let Some(status) = problem {
            if !interrupted(&status) || contact.elapsed() > LOST_CONTACT {
                return Err(status.into());
            }
            // The ring starts anew with the daemon, and so does its numbering.
            request.after_seq = 0;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_the_last() {
        let mut items = vec![1, 2, 3];
        newest(&mut items, 2);
        assert_eq!(items, [2, 3]);
        newest(&mut items, 5);
        assert_eq!(items, [2, 3]);
        newest(&mut items, 0);
        assert!(items.is_empty());
    }

    #[test]
    fn an_event_names_its_goal() {
        let event = MemoryEvent {
            kind: "goal".into(),
            source: "orchestrator".into(),
            summary: "the goal is received".into(),
            goal_id: "g-1".into(),
            ..MemoryEvent::default()
        };
        assert!(event_line(&event).ends_with("the goal is received  (goal g-1)"));
    }
}
