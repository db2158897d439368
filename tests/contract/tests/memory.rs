//! The store in memory, held to the contract.

use std::{sync::Arc, time::Duration};

use application::{memory::MemoryStore, ports::Store};
use async_trait::async_trait;
use contract_tests::Harness;

struct Memory {
    store: Arc<MemoryStore>,
}

#[async_trait]
impl Harness for Memory {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn advance(&self, by: Duration) {
        self.store.advance(by);
    }

    async fn turn_back(&self, by: Duration) {
        self.store.turn_back(by);
    }
}

async fn fresh() -> Memory {
    let start = "2026-11-22T12:00:00.000001Z".parse().expect("a moment");
    Memory { store: Arc::new(MemoryStore::new(start)) }
}

contract_tests::store_contract!(fresh);
