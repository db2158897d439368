//! Tasks that wait for others.

use domain::{
    NewTask, Progress, Status, TaskId,
    flow::{Need, Needs, NodeName, OnFailure},
};

use super::{Receipt, StoreError, Submitted, Waiting};

/// A task of a flow, on its way into the store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNode {
    /// What it is. Where it needs others, its `start` counts for nothing.
    pub task: NewTask,
    /// What it waits for.
    pub needs: Vec<NewNeed>,
    /// Whether it is an item of the batch that is the flow's first node.
    pub is_item: bool,
}

/// One task that a new one waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNeed {
    /// Which.
    pub on: Needed,
    /// What the waiting one calls it.
    pub name: Option<NodeName>,
    /// What happens when it does not complete.
    pub on_failure: OnFailure,
}

/// Who is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// A task that is stored.
    Stored(TaskId),
    /// The node at this place of the same flow.
    Node(usize),
}

/// The items of a batch that is too large for memory: they are read piece by piece, each time a store begins with them.
pub trait BatchItems: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// All of them, from the first on: each plain, without needs, keys or a unique key.
    fn pieces(&self) -> Box<dyn Iterator<Item = Result<Vec<NewTask>, StoreError>> + Send + '_>;
}

/// What became of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowStored {
    /// It is stored: a receipt per node, in order. Of a node that waits for others, `run_at` is `None`.
    New(Vec<Receipt>),
    /// Nothing is stored, because of what the first node came to.
    Not(Submitted),
}

/// What one step of following up did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FollowedUp {
    /// How many ends of needed tasks it looked at; as many as it was allowed when there may be more.
    pub seen: usize,
    /// Tasks that wait for a worker now.
    pub released: Vec<Waiting>,
    /// Tasks that ended without one.
    pub ended: Vec<(TaskId, Status)>,
    /// How far batches have come.
    pub progress: Vec<(TaskId, Progress)>,
}

impl NewNode {
    /// A node that waits for nothing.
    pub fn of(task: NewTask) -> Self {
        Self { task, needs: Vec::new(), is_item: false }
    }

    /// An item that waits for nothing.
    pub fn item(task: NewTask) -> Self {
        Self { is_item: true, ..Self::of(task) }
    }

    /// Whether it waits for others, at this place of a flow.
    pub fn waits(&self, place: usize, nodes: &[Self]) -> bool {
        !self.needs.is_empty() || (place == 0 && nodes.iter().any(|node| node.is_item))
    }
}

/// What is kept with each node about its needs and its follow-ups, once its number is known.
pub fn links(nodes: &[NewNode], ids: &[TaskId]) -> Vec<Option<Needs>> {
    let mut links: Vec<Needs> = vec![Needs::default(); nodes.len()];
    for (place, node) in nodes.iter().enumerate() {
        for need in &node.needs {
            let task = match need.on {
                Needed::Stored(id) => id,
                Needed::Node(other) => {
                    let (Some(id), Some(me)) = (ids.get(other), ids.get(place)) else { continue };
                    if let Some(other) = links.get_mut(other) {
                        other.then.push(*me);
                    }
                    *id
                }
            };
            let need = Need { task, name: need.name.clone(), on_failure: need.on_failure };
            if let Some(own) = links.get_mut(place) {
                own.after.push(need);
            }
        }
    }
    let some = |links: Needs| (links != Needs::default()).then_some(links);
    links.into_iter().map(some).collect()
}

/// Whom each node waits for, by number: its needs, and the items of the batch that it stands for.
pub fn open_needs(nodes: &[NewNode], ids: &[TaskId]) -> Vec<Vec<TaskId>> {
    let needed = |need: &NewNeed| match need.on {
        Needed::Stored(id) => Some(id),
        Needed::Node(place) => ids.get(place).copied(),
    };
    let mut open: Vec<Vec<TaskId>> =
        nodes.iter().map(|node| node.needs.iter().filter_map(needed).collect()).collect();
    let items = nodes.iter().zip(ids).filter(|(node, _)| node.is_item).map(|(_, id)| *id);
    if let Some(head) = open.first_mut() {
        head.extend(items);
    }
    for needs in &mut open {
        needs.sort_unstable();
        needs.dedup();
    }
    open
}
