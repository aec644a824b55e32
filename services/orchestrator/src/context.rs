//! What every goal needs: the other daemons, the agents, the planners, the settings.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use aios_kit::{Paths, config::SystemConfig};
use aios_proto::v1::ToolInfo;

use crate::{
    agents::Agents, approval::Approval, catalogue::Catalogue, clients::Tools, error::Error,
    planner::Planner, procedure::Library, slots::Slots, store::Store, watch::Hub,
};

/// Shared by all goals.
pub struct Context {
    /// Where things are.
    pub paths: Paths,
    /// Settings.
    pub config: SystemConfig,
    /// Why the settings are the safe ones, if they are.
    pub settings_problem: Option<String>,
    /// Durable state.
    pub store: Store,
    /// The tools daemon.
    pub tools: Tools,
    /// The agents.
    pub agents: Agents,
    /// Places for running goals.
    pub slots: Slots,
    /// Who follows what.
    pub hub: Hub,
    /// All procedures.
    pub library: Arc<Library>,
    /// The planners in the order in which they are asked.
    pub planners: Vec<Arc<dyn Planner>>,
    /// Approvals of the goals that live, and of those that ended since the start.
    pub approvals: Mutex<BTreeMap<String, Approval>>,
    /// The catalogue as it was last seen.
    pub catalogue: Mutex<Option<(Vec<ToolInfo>, Arc<Catalogue>)>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// The tools that the machine has now.
    ///
    /// # Errors
    /// When the tools daemon does not answer.
    pub async fn catalogue(&self) -> Result<Arc<Catalogue>, Error> {
        let tools = self.tools.list().await?;
        let mut seen = self
            .catalogue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((known, catalogue)) = seen.as_ref()
            && *known == tools
        {
            return Ok(catalogue.clone());
        }
        let catalogue = Arc::new(Catalogue::new(tools.clone()));
        for problem in catalogue
            .problems
            .iter()
            .chain(&self.library.unusable(&catalogue))
        {
            tracing::warn!(problem, "left out");
        }
        *seen = Some((tools, catalogue.clone()));
        Ok(catalogue)
    }

    /// Remembers an approval as it stands.
    pub fn remember(&self, approval: &Approval) {
        let mut approvals = self
            .approvals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        approvals.insert(approval.id.clone(), approval.clone());
    }

    /// What does not work as it should, for the health report.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.settings_problem.iter().cloned().collect();
        problems.extend(self.library.problems.iter().cloned());
        let seen = self
            .catalogue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match seen.as_ref() {
            None => problems.push("the tool catalogue has not been read yet".to_owned()),
            Some((_, catalogue)) => {
                problems.extend(catalogue.problems.iter().cloned());
                problems.extend(self.library.unusable(catalogue));
            }
        }
        problems
    }
}
