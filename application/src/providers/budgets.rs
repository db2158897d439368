//! What is left of the budgets.

use std::{collections::HashMap, sync::Arc};

use domain::{Day, ai::Payer};

use super::NamedBudget;
use crate::ports::{Store, StoreError};

/// The budgets of an installation. Cheap to clone.
#[derive(Clone)]
pub struct Budgets {
    budgets: Arc<[NamedBudget]>,
    store: Arc<dyn Store>,
}

/// How a budget stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetReport {
    /// The budget.
    pub budget: NamedBudget,
    /// The first day of the period that is now.
    pub begins: Day,
    /// What has been spent in it, calls under way included with what they may cost.
    pub spent: u64,
}

impl Budgets {
    /// These budgets, whose meters are in `store`.
    pub fn new(budgets: Vec<NamedBudget>, store: Arc<dyn Store>) -> Self {
        Self { budgets: budgets.into(), store }
    }

    /// How each of them stands, in the order of the configuration: for this one, where there are several purses.
    pub async fn report(&self, payer: &Payer) -> Result<Vec<BudgetReport>, StoreError> {
        if self.budgets.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = self.budgets.iter().map(|budget| budget.meter(payer)).collect();
        let meters: HashMap<_, _> = self.store.read_meters(&names).await?.into_iter().collect();
        let now = self.store.ping().await?.now;
        let report = |(budget, name): (&NamedBudget, String)| {
            let meter = meters.get(&name).cloned().unwrap_or_default();
            let (spent, begins) = meter.spent(&budget.budget, now);
            BudgetReport { budget: budget.clone(), begins, spent }
        };
        Ok(self.budgets.iter().zip(names).map(report).collect())
    }
}
