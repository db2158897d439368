//! Calls that arrive while earlier ones are under way are done together in the next one. Under load most of the cost of
//! a call is the way to the store and back, and its commit; an idle store is called at once, and nobody waits for company.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use crate::ports::StoreError;

/// Does the items of several callers together: one answer per item, in order, all or none.
type Work<T, A> =
    Box<dyn Fn(Vec<T>) -> Pin<Box<dyn Future<Output = Result<Vec<A>, StoreError>> + Send>> + Send + Sync>;

/// How much is done together.
#[derive(Debug, Clone, Copy)]
pub struct Together {
    /// So many items in one call at most; a caller's own items are never split.
    pub most: usize,
    /// So many calls at a time at most.
    pub calls: usize,
}

/// Brings callers together. Clones share it. Must be used inside a tokio runtime.
pub struct Combiner<T, A> {
    shared: Arc<Shared<T, A>>,
}

struct Shared<T, A> {
    work: Work<T, A>,
    together: Together,
    queue: Mutex<Queue<T, A>>,
    /// Told when the last call has ended.
    idle: Notify,
}

struct Queue<T, A> {
    waiting: VecDeque<Caller<T, A>>,
    calls: usize,
    closed: bool,
}

/// One caller's items, and where its answer goes.
struct Caller<T, A> {
    items: Vec<T>,
    reply: oneshot::Sender<Result<Vec<A>, StoreError>>,
}

impl<T, A> Clone for Combiner<T, A> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Clone + Send + 'static, A: Send + 'static> Combiner<T, A> {
    /// Combines calls of `work`.
    pub fn new<F>(together: Together, work: impl Fn(Vec<T>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Vec<A>, StoreError>> + Send + 'static,
    {
        let queue = Queue { waiting: VecDeque::new(), calls: 0, closed: false };
        let work: Work<T, A> = Box::new(move |items| Box::pin(work(items)));
        Self { shared: Arc::new(Shared { work, together, queue: Mutex::new(queue), idle: Notify::new() }) }
    }

    /// Has these done, whether or not the caller waits for it.
    pub async fn call(&self, items: Vec<T>) -> Result<Vec<A>, StoreError> {
        self.ask(items).await.map_err(|_| closed())?
    }

    /// As [`Combiner::call`], for callers who do not wait.
    pub fn leave(&self, items: Vec<T>) {
        drop(self.ask(items));
    }

    fn ask(&self, items: Vec<T>) -> oneshot::Receiver<Result<Vec<A>, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let mut queue = self.shared.queue();
        if !queue.closed {
            queue.waiting.push_back(Caller { items, reply });
            if queue.calls < self.shared.together.calls {
                queue.calls += 1;
                tokio::spawn(Arc::clone(&self.shared).run());
            }
        }
        answer
    }

    /// Takes no more calls and waits until those that were made are done.
    pub async fn close(&self) {
        self.shared.queue().closed = true;
        self.idle().await;
    }

    /// Waits for a moment at which nothing is left to do.
    pub async fn idle(&self) {
        let idle = self.shared.idle.notified();
        tokio::pin!(idle);
        // Listen before looking.
        idle.as_mut().enable();
        let under_way = self.shared.queue().calls > 0;
        if under_way {
            idle.await;
        }
    }
}

impl<T: Clone + Send + 'static, A: Send + 'static> Shared<T, A> {
    fn queue(&self) -> MutexGuard<'_, Queue<T, A>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls for as long as somebody waits.
    async fn run(self: Arc<Self>) {
        // Also when a call panics.
        let _end = EndOfCalls(&self);
        while let Some(callers) = self.next() {
            self.serve(callers).await;
        }
    }

    fn next(&self) -> Option<Vec<Caller<T, A>>> {
        let mut queue = self.queue();
        let (mut callers, mut items) = (0, 0);
        for caller in &queue.waiting {
            items += caller.items.len();
            if callers > 0 && items > self.together.most {
                break;
            }
            callers += 1;
        }
        (callers > 0).then(|| queue.waiting.drain(..callers).collect())
    }

    async fn serve(&self, callers: Vec<Caller<T, A>>) {
        if let [_] = callers.as_slice() {
            for Caller { items, reply } in callers {
                // A caller that went away does not need the answer.
                let _ = reply.send((self.work)(items).await);
            }
            return;
        }
        let all = callers.iter().flat_map(|caller| caller.items.iter().cloned()).collect();
        match (self.work)(all).await {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                for Caller { items, reply } in callers {
                    let _ = reply.send(Ok(answers.by_ref().take(items.len()).collect()));
                }
            }
            // Whatever was wrong with one of them is that one's own affair.
            Err(StoreError::Corrupt(_)) => {
                for Caller { items, reply } in callers {
                    let _ = reply.send((self.work)(items).await);
                }
            }
            Err(error) => {
                for Caller { reply, .. } in callers {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Gives back a call's place, and lets those who came in the last moment have it.
struct EndOfCalls<'a, T: Clone + Send + 'static, A: Send + 'static>(&'a Arc<Shared<T, A>>);

impl<T: Clone + Send + 'static, A: Send + 'static> Drop for EndOfCalls<'_, T, A> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        if !queue.waiting.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            tokio::spawn(Arc::clone(self.0).run());
            return;
        }
        queue.calls -= 1;
        if queue.calls == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    type Calls = Arc<Mutex<Vec<Vec<u32>>>>;

    /// Answers each item with ten times itself, one call per permit; refuses 13.
    fn combiner(together: Together, permits: &Arc<Semaphore>) -> (Combiner<u32, u32>, Calls) {
        let (calls, permits) = (Calls::default(), Arc::clone(permits));
        let seen = Arc::clone(&calls);
        let combiner = Combiner::new(together, move |items: Vec<u32>| {
            let (seen, permits) = (Arc::clone(&seen), Arc::clone(&permits));
            async move {
                seen.lock().expect("unpoisoned").push(items.clone());
                permits.acquire_owned().await.expect("open").forget();
                assert!(!items.contains(&99), "a panic of the store");
                if items.contains(&13) {
                    return Err(StoreError::Corrupt("13".into()));
                }
                Ok(items.iter().map(|item| item * 10).collect())
            }
        });
        (combiner, calls)
    }

    async fn calls_are(calls: &Calls, expected: &[&[u32]]) {
        let reached = async {
            while calls.lock().expect("unpoisoned").len() < expected.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), reached).await.expect("these calls");
        assert_eq!(*calls.lock().expect("unpoisoned"), expected);
    }

    #[tokio::test]
    async fn who_comes_while_a_call_is_under_way_shares_the_next() {
        let permits = Arc::new(Semaphore::new(0));
        let (combiner, calls) = combiner(Together { most: 4, calls: 1 }, &permits);
        let ask = |items: &[u32]| {
            let (combiner, items) = (combiner.clone(), items.to_vec());
            tokio::spawn(async move { combiner.call(items).await })
        };
        let first = ask(&[1]);
        calls_are(&calls, &[&[1]]).await;
        let others = [ask(&[2, 3]), ask(&[4]), ask(&[5, 6])];
        tokio::task::yield_now().await;
        permits.add_permits(1);
        calls_are(&calls, &[&[1], &[2, 3, 4]]).await;
        permits.add_permits(2);
        assert_eq!(first.await.expect("ran"), Ok(vec![10]));
        let mut answers = Vec::new();
        for other in others {
            answers.push(other.await.expect("ran").expect("stored"));
        }
        assert_eq!(answers, [vec![20, 30], vec![40], vec![50, 60]]);
        calls_are(&calls, &[&[1], &[2, 3, 4], &[5, 6]]).await;
    }

    #[tokio::test]
    async fn a_refused_item_fails_its_own_caller_only() {
        let permits = Arc::new(Semaphore::new(0));
        let (combiner, calls) = combiner(Together { most: 9, calls: 1 }, &permits);
        let ask = |items: &[u32]| {
            let (combiner, items) = (combiner.clone(), items.to_vec());
            tokio::spawn(async move { combiner.call(items).await })
        };
        let first = ask(&[1]);
        calls_are(&calls, &[&[1]]).await;
        let (good, bad) = (ask(&[2]), ask(&[13]));
        tokio::task::yield_now().await;
        permits.add_permits(9);
        assert_eq!(first.await.expect("ran"), Ok(vec![10]));
        assert_eq!(good.await.expect("ran"), Ok(vec![20]));
        assert!(bad.await.expect("ran").is_err());
        calls_are(&calls, &[&[1], &[2, 13], &[2], &[13]]).await;
    }

    #[tokio::test]
    async fn after_a_panic_others_are_served() {
        let permits = Arc::new(Semaphore::new(9));
        let (combiner, _) = combiner(Together { most: 9, calls: 1 }, &permits);
        assert!(combiner.call(vec![99]).await.is_err());
        assert_eq!(combiner.call(vec![1]).await, Ok(vec![10]));
    }

    #[tokio::test]
    async fn closing_waits_for_what_was_asked() {
        let permits = Arc::new(Semaphore::new(0));
        let (combiner, calls) = combiner(Together { most: 9, calls: 2 }, &permits);
        let asked = tokio::spawn({
            let combiner = combiner.clone();
            async move { combiner.call(vec![1]).await }
        });
        calls_are(&calls, &[&[1]]).await;
        let closing = tokio::spawn({
            let combiner = combiner.clone();
            async move { combiner.close().await }
        });
        tokio::task::yield_now().await;
        assert!(!closing.is_finished());
        permits.add_permits(1);
        closing.await.expect("closed");
        assert_eq!(asked.await.expect("ran"), Ok(vec![10]));
        assert!(combiner.call(vec![2]).await.is_err(), "no more calls");
    }
}
