//! Where scans of waiting tasks begin.
//!
//! A scan through the index of waiting tasks passes over everything that was taken since: rows that run, and, while some
//! old snapshot keeps the vacuum away, every row that was ever there. So it begins behind what was found the last time.
//! That misses whoever comes in before the mark: a retry, a commit that was overtaken. They are found by whole scans, one
//! at a time, which may take a part of the time: as good as always while they are quick, seldom when they are slow, and
//! then never where somebody cannot wait.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use application::ports::Patience;
use domain::{Priority, QueueName, Rank};
use tokio::time::Instant;

/// The part of the time that whole scans may take.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Share {
    /// A twentieth, or a quarter where they would come less often than every two seconds: nobody else finds what came in
    /// before the mark, so it must not wait for long.
    Quarter,
    /// A twentieth: they mend what is seldom broken, in every process.
    Twentieth,
}

impl Share {
    const SELDOM: Duration = Duration::from_secs(2);

    /// From the beginning of a whole scan that took so long until the next one may begin.
    fn pause(self, took: Duration) -> Duration {
        match self {
            Self::Quarter => (took * 20).min(Self::SELDOM.max(took * 4)),
            Self::Twentieth => took * 20,
        }
    }
}

/// So few rows are passed over in no time: up to then, every scan is whole, unless the last one was slow.
const FEW: usize = 2_000;
const PRIORITIES: usize = Priority::LAST.get() as usize + 1;

/// The marks of one kind of scan.
#[derive(Debug)]
pub(crate) struct Marks {
    book: Mutex<Book>,
    /// What counts as a slow scan.
    slow: Duration,
    share: Share,
}

#[derive(Debug, Default)]
struct Book {
    /// By queue and priority: nothing is expected up to this rank.
    behind: HashMap<QueueName, [i64; PRIORITIES]>,
    /// A whole scan is on its way.
    under_way: bool,
    no_whole_scan_before: Option<Instant>,
    /// By the last whole scan.
    took: Duration,
    found: usize,
}

/// A scan on its way. One that is dropped came to nothing, and took as long as it did.
#[derive(Debug)]
pub(crate) struct Scan<'m> {
    marks: &'m Marks,
    began: Instant,
    whole: bool,
}

impl Marks {
    /// No marks yet; a whole scan counts as slow from `slow` on.
    pub(crate) fn new(slow: Duration, share: Share) -> Self {
        Self { book: Mutex::default(), slow, share }
    }

    /// Whether a scan of this queue for somebody who cannot wait is quick, as far as one can know.
    pub(crate) fn lets_look_soon(&self, queue: &QueueName) -> bool {
        let book = self.book();
        book.took < self.slow || book.behind.contains_key(queue)
    }

    /// Begins a scan of these queues: for each, and in each for each priority, the rank behind which it begins.
    pub(crate) fn begin<'q>(
        &self,
        queues: impl IntoIterator<Item = &'q QueueName>,
        patience: Patience,
    ) -> (Scan<'_>, Vec<i64>) {
        let mut book = self.book();
        let began = Instant::now();
        let quick = book.took < self.slow;
        let due = book.no_whole_scan_before.is_none_or(|moment| began >= moment) && !book.under_way;
        let whole = (quick && book.found < FEW) || (due && (quick || patience == Patience::Any));
        book.under_way |= whole;
        let from_the_start = [-1; PRIORITIES];
        let behind = |queue| book.behind.get(queue).filter(|_| !whole).unwrap_or(&from_the_start);
        let behind = queues.into_iter().flat_map(|queue| *behind(queue)).collect();
        (Scan { marks: self, began, whole }, behind)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scan<'_> {
    /// Ends a scan that has found so many: nothing is expected up to these any more.
    pub(crate) fn end<'q>(
        self,
        found: usize,
        passed: impl IntoIterator<Item = (&'q QueueName, Priority, Rank)>,
    ) {
        let mut book = self.marks.book();
        book.found = book.found.saturating_add(found);
        for (queue, priority, rank) in passed {
            let behind = match book.behind.get_mut(queue) {
                Some(behind) => behind,
                None => book.behind.entry(queue.clone()).or_insert([-1; PRIORITIES]),
            };
            let behind = &mut behind[usize::from(priority.get())];
            *behind = (*behind).max(rank.0);
        }
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if self.whole {
            let mut book = self.marks.book();
            let took = self.began.elapsed();
            book.took = took;
            book.under_way = false;
            book.no_whole_scan_before = Some(self.began + self.marks.share.pause(took));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(100);

    fn behind(level: u8, id: i64) -> Vec<i64> {
        let mut behind = vec![-1; PRIORITIES];
        behind[usize::from(level)] = id;
        behind
    }

    #[tokio::test(start_paused = true)]
    async fn slow_whole_scans_are_rare_and_others_begin_behind_what_was_found() {
        let (marks, queue, other) =
            (Marks::new(SLOW, Share::Quarter), QueueName::default_queue(), "other".parse().expect("a name"));
        let begin = |queues: &[&QueueName]| marks.begin(queues.iter().copied(), Patience::Any);
        let urgent = Priority::FIRST;
        let (scan, from) = begin(&[&queue]);
        assert_eq!(from, behind(0, -1), "the first scan is whole");
        tokio::time::advance(Duration::from_millis(50)).await;
        scan.end(FEW - 1, [(&queue, urgent, Rank(7)), (&queue, urgent, Rank(5))]);
        let (scan, from) = begin(&[&queue]);
        assert_eq!(from, behind(0, -1), "few have been found yet");
        tokio::time::advance(Duration::from_millis(50)).await;
        scan.end(1, []);

        let (scan, from) = begin(&[&other, &queue]);
        assert_eq!(from, [behind(0, -1), behind(0, 7)].concat(), "it begins behind what was found, by queue");
        scan.end(0, []);
        tokio::time::advance(Duration::from_millis(949)).await;
        assert_eq!(begin(&[&queue]).1, behind(0, 7));
        tokio::time::advance(Duration::from_millis(1)).await;
        let (scan, from) = begin(&[&queue]);
        assert_eq!(from, behind(0, -1), "a whole scan, 1 s after the one that took 50 ms began");
        assert_eq!(begin(&[&queue]).1, behind(0, 7), "one at a time");
        // This one was quick, so the next is whole as well.
        scan.end(0, []);
        assert_eq!(begin(&[&queue]).1, behind(0, -1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_process_that_meets_a_slow_scan_does_not_repeat_it() {
        let (marks, queue) = (Marks::new(SLOW, Share::Quarter), QueueName::default_queue());
        let (scan, _) = marks.begin([&queue], Patience::Little);
        tokio::time::advance(SLOW).await;
        scan.end(1, [(&queue, Priority::FIRST, Rank(7))]);
        assert_eq!(marks.begin([&queue], Patience::Any).1, behind(0, 7));
        tokio::time::advance(Share::SELDOM).await;
        assert_eq!(marks.begin([&queue], Patience::Little).1, behind(0, 7), "who cannot wait is spared");
        assert_eq!(marks.begin([&queue], Patience::Any).1, behind(0, -1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_that_fails_is_not_repeated_at_once_either() {
        let (marks, queue) = (Marks::new(SLOW, Share::Quarter), QueueName::default_queue());
        let (scan, _) = marks.begin([&queue], Patience::Any);
        tokio::time::advance(Share::SELDOM * 2).await;
        drop(scan); // the statement's time was over
        marks.begin([&queue], Patience::Little).0.end(1, [(&queue, Priority::FIRST, Rank(7))]);
        assert_eq!(marks.begin([&queue], Patience::Any).1, behind(0, 7));
        tokio::time::advance(Share::SELDOM * 6).await;
        assert_eq!(marks.begin([&queue], Patience::Any).1, behind(0, -1));
    }

    #[tokio::test(start_paused = true)]
    async fn repairs_take_a_twentieth_of_the_time_however_slow_they_are() {
        let (marks, queue) = (Marks::new(SLOW, Share::Twentieth), QueueName::default_queue());
        let (scan, _) = marks.begin([&queue], Patience::Any);
        tokio::time::advance(Share::SELDOM).await;
        scan.end(1, [(&queue, Priority::FIRST, Rank(7))]);
        tokio::time::advance(Share::SELDOM * 19 - SLOW).await;
        assert_eq!(marks.begin([&queue], Patience::Any).1, behind(0, 7));
        tokio::time::advance(SLOW).await;
        assert_eq!(marks.begin([&queue], Patience::Any).1, behind(0, -1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_wait_does_not_look_where_nothing_is_known_and_scans_are_slow() {
        let (marks, queue) = (Marks::new(SLOW, Share::Quarter), QueueName::default_queue());
        assert!(marks.lets_look_soon(&queue), "nobody knows how long it takes");
        let (scan, _) = marks.begin([&queue], Patience::Little);
        tokio::time::advance(SLOW).await;
        scan.end(0, []);
        assert!(!marks.lets_look_soon(&queue));
        marks.begin([&queue], Patience::Any).0.end(1, [(&queue, Priority::FIRST, Rank(7))]);
        assert!(marks.lets_look_soon(&queue), "it begins behind what was found");
    }
}
