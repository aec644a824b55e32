//! From the events of a request to one answer.

use std::time::Duration;

use aios_kit::{Category, Error};

use super::{
    request::Checked,
    slot::{Event, Slot, Ticket},
};
use crate::protocol::{FailureKind, Generated, Outcome};

/// Runs a generation and puts its text together; the duration is how long it waited.
///
/// # Errors
/// Why it could not be done.
pub async fn whole_text(
    slot: &Slot,
    caller: u32,
    work: Checked,
) -> Result<(String, Generated, Duration), Error> {
    let mut ticket = slot.submit(caller, work)?;
    collect(&mut ticket).await
}

/// Puts together what is left of a generation.
///
/// # Errors
/// Why it could not be done.
pub async fn collect(ticket: &mut Ticket) -> Result<(String, Generated, Duration), Error> {
    let mut whole = String::new();
    loop {
        match ticket.next().await {
            Event::Text(text) => whole.push_str(&text),
            Event::Done(Outcome::Generated(generated), waited) => {
                return Ok((whole, generated, waited));
            }
            Event::Done(outcome, _) => return Err(unexpected(outcome)),
            Event::Failed(error) => return Err(error),
        }
    }
}

/// The error that an outcome means to somebody who wanted another one.
#[must_use]
pub fn unexpected(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Failed(failure) => {
            let category = match failure.kind {
                FailureKind::Request => Category::Validation,
                FailureKind::Ended => Category::Timeout,
                FailureKind::Engine => Category::Internal,
            };
            Error::new(category, failure.message)
        }
        _ => Error::new(Category::Internal, "the engine answered another question"),
    }
}
