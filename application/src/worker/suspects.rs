//! Suspects run in small company, then alone: see `domain::Suspicion`.

use domain::Suspicion;

/// How many suspects of each degree run here.
#[derive(Debug, Default)]
pub(super) struct RunningSuspects {
    shared: usize,
    alone: usize,
}

impl RunningSuspects {
    fn of(&mut self, suspicion: Suspicion) -> Option<&mut usize> {
        match suspicion {
            Suspicion::None => None,
            Suspicion::Shared => Some(&mut self.shared),
            Suspicion::Alone => Some(&mut self.alone),
        }
    }

    pub(super) fn take(&mut self, suspicion: Suspicion) {
        if let Some(running) = self.of(suspicion) {
            *running += 1;
        }
    }

    /// Whether that makes room for another suspect.
    pub(super) fn give_back(&mut self, suspicion: Suspicion) -> bool {
        self.of(suspicion).map(|running| *running = running.saturating_sub(1)).is_some()
    }

    /// Degrees of which more may run, with how many more.
    pub(super) fn room(&mut self) -> Vec<(Suspicion, usize)> {
        let mut room = Vec::new();
        for suspicion in Suspicion::ALL {
            if let (Some(most), Some(running)) = (suspicion.at_once(), self.of(suspicion))
                && *running < most
            {
                room.push((suspicion, most - *running));
            }
        }
        room
    }
}
