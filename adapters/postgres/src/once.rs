//! Submissions that must not happen twice: those with an idempotency key, and unique ones.
//!
//! Such a batch is one transaction. It begins by locking what it names (advisory locks until its end, in one order for
//! all), so that of several batches with the same key each but the first sees, in the statements after that, what the
//! one before it has committed. Batches that name nothing take no lock.

use std::collections::{BTreeSet, HashMap};

use application::ports::{Receipt, Submitted};
use domain::{
    Idempotency, IdempotencyKey, NewTask, Rank, Start, Status, TaskId, Tenant, Timestamp, Unique, UniqueKey,
};
use sqlx::{Connection, PgConnection};

use crate::{
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{field, interval, micros},
    submit::insert_with_keys,
};

/// The family of this file's locks: `once` in ASCII. It must never change, as every running version takes them.
const FAMILY: i32 = 0x6f6e_6365;
/// How many locks there are. A lock for each key could use up the server's table of locks; with too few, batches that
/// share nothing would wait for each other.
const LOCKS: u64 = 1024;

pub(crate) struct SubmitOnce {
    pub(crate) tasks: Vec<NewTask>,
    pub(crate) clock: Clock,
}

impl Operation for SubmitOnce {
    type Output = Vec<Submitted>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Submitted>, Fault> {
        let mut transaction = connection.begin().await?;
        let clock = self.clock.bind();
        let now = lock(&mut transaction, &self.tasks, clock).await?;
        let used = used_keys(&mut transaction, &self.tasks, now).await?;
        let in_the_way = in_the_way(&mut transaction, &self.tasks, &used, now).await?;
        let fates = Batch { tasks: &self.tasks, used, in_the_way, now }.fates();
        let new: Vec<_> = self.tasks.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::New).collect();
        let new: Vec<_> = new.into_iter().map(|(task, _)| task).collect();
        let receipts =
            if new.is_empty() { Vec::new() } else { insert_with_keys(&mut transaction, &new, clock).await? };
        transaction.commit().await?;
        answers(&fates, receipts)
    }
}

/// What a task comes to by its keys, where it is not to be stored. Its keys are locked until the end of the transaction.
pub(crate) async fn known(
    transaction: &mut PgConnection,
    task: &NewTask,
    clock: Option<Timestamp>,
) -> Result<Option<Submitted>, Fault> {
    if task.idempotency.is_none() && task.unique.is_none() {
        return Ok(None);
    }
    let tasks = std::slice::from_ref(task);
    let now = lock(transaction, tasks, clock).await?;
    let used = used_keys(transaction, tasks, now).await?;
    if let Some(used) = used.get(&0) {
        return Ok(Some(*used));
    }
    let in_the_way = in_the_way(transaction, tasks, &used, now).await?;
    Ok(in_the_way.get(&0).map(|id| Submitted::Existing(*id)))
}

/// What becomes of one task of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is stored.
    New,
    /// What was stored before this batch decides.
    Known(Submitted),
    /// The same request stands at this place of the batch, and is new.
    Repeats(usize),
    /// Its idempotency key belongs to another request at this place of the batch.
    ReusesKeyOf(usize),
    /// The new task at this place of the batch stands in its way.
    YieldsTo(usize),
}

fn answers(fates: &[Fate], receipts: Vec<Receipt>) -> Result<Vec<Submitted>, Fault> {
    let mut stored: HashMap<usize, Receipt> = HashMap::with_capacity(receipts.len());
    let places = fates.iter().enumerate().filter(|(_, fate)| **fate == Fate::New).map(|(place, _)| place);
    stored.extend(places.zip(receipts));
    let receipt = |place: usize| {
        let missing = || Fault::Unreadable(format!("the batch's task {place} was stored without a receipt"));
        stored.get(&place).copied().ok_or_else(missing)
    };
    let answer = |(place, fate): (usize, &Fate)| {
        Ok(match *fate {
            Fate::New => Submitted::New(receipt(place)?),
            Fate::Known(submitted) => submitted,
            Fate::Repeats(first) => Submitted::Replayed(receipt(first)?),
            Fate::ReusesKeyOf(first) => Submitted::KeyReused(receipt(first)?.id),
            Fate::YieldsTo(other) => Submitted::Existing(receipt(other)?.id),
        })
    };
    fates.iter().enumerate().map(answer).collect()
}

/// A batch with all that was known of its keys before it.
struct Batch<'a> {
    tasks: &'a [NewTask],
    /// By place: what the first use of its idempotency key came to.
    used: HashMap<usize, Submitted>,
    /// By place: the newest task that stands in its way.
    in_the_way: HashMap<usize, TaskId>,
    now: Timestamp,
}

impl Batch<'_> {
    /// One after the other, as if each came alone.
    fn fates(&self) -> Vec<Fate> {
        let mut requests: HashMap<(&Tenant, &IdempotencyKey), (usize, [u8; 32])> = HashMap::new();
        let mut kin: HashMap<(&Tenant, &UniqueKey), Vec<usize>> = HashMap::new();
        let mut fates = Vec::with_capacity(self.tasks.len());
        for (place, task) in self.tasks.iter().enumerate() {
            let request = task.idempotency.as_ref().map(|Idempotency { key, .. }| (&task.tenant, key));
            let relatives = task.unique.as_ref().map(|Unique { key, .. }| (&task.tenant, key));
            let fate = self.fate(
                place,
                request.and_then(|request| requests.get(&request)),
                relatives.and_then(|relatives| kin.get(&relatives)),
            );
            if fate == Fate::New {
                if let (Some(request), Some(once)) = (request, &task.idempotency) {
                    requests.insert(request, (place, once.fingerprint));
                }
                if let Some(relatives) = relatives {
                    kin.entry(relatives).or_default().push(place);
                }
            }
            fates.push(fate);
        }
        fates
    }

    fn fate(&self, place: usize, request: Option<&(usize, [u8; 32])>, kin: Option<&Vec<usize>>) -> Fate {
        let task = &self.tasks[place];
        if let (Some((first, fingerprint)), Some(once)) = (request, &task.idempotency) {
            let same = *fingerprint == once.fingerprint;
            return if same { Fate::Repeats(*first) } else { Fate::ReusesKeyOf(*first) };
        }
        if let Some(used) = self.used.get(&place) {
            return Fate::Known(*used);
        }
        // The newest counts, and what is new in this batch is newer than all before it.
        let met = |other: &&usize| {
            let status = self.status(&self.tasks[**other]);
            task.unique.as_ref().is_some_and(|unique| unique.is_met_by(status, self.now, self.now))
        };
        if let Some(other) = kin.and_then(|kin| kin.iter().rev().find(met)) {
            return Fate::YieldsTo(*other);
        }
        self.in_the_way.get(&place).map_or(Fate::New, |id| Fate::Known(Submitted::Existing(*id)))
    }

    /// How a task stands that is submitted now; in whole microseconds, as its statement judges it.
    fn status(&self, task: &NewTask) -> Status {
        let waits = match task.start {
            Start::Now => false,
            Start::At(at) => at.timestamp_micros() > self.now.timestamp_micros(),
            Start::After(wait) => micros(wait) > 0,
        };
        if waits { Status::Scheduled } else { Status::Pending }
    }
}

/// Waits for every batch that names one of the same keys, and answers the time.
async fn lock(
    connection: &mut PgConnection,
    tasks: &[NewTask],
    clock: Option<Timestamp>,
) -> Result<Timestamp, Fault> {
    let mut locks = BTreeSet::new();
    for task in tasks {
        let tenant = task.tenant.as_str();
        locks.extend(
            task.idempotency.as_ref().map(|once| lock_of(&["idempotency", tenant, once.key.as_str()])),
        );
        locks.extend(task.unique.as_ref().map(|unique| lock_of(&["unique", tenant, unique.key.as_str()])));
    }
    let locks: Vec<i32> = locks.into_iter().collect();
    let row = sqlx::query(
        "SELECT coalesce($1, now()) AS now, count(pg_advisory_xact_lock($2, lock)) AS locks FROM unnest($3::integer[]) AS wanted (lock)",
    )
    .bind(clock)
    .bind(FAMILY)
    .bind(locks)
    .fetch_one(connection)
    .await?;
    field(&row, "now")
}

/// The lock of a key, by FNV-1a. Source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn lock_of(parts: &[&str]) -> i32 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The upper bits: the lower ones of a short text are hardly mixed.
    i32::try_from((hash >> 32) % LOCKS).unwrap_or_default()
}

pub(crate) const USED_KEYS: &str = "
SELECT a.place, k.fingerprint = a.fingerprint AS same, k.task, k.created_at, k.run_at
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[]) AS a (place, tenant, key, fingerprint)
CROSS JOIN LATERAL (
    SELECT fingerprint, task, created_at, run_at FROM idempotency_key
    WHERE idempotency_key.tenant = a.tenant AND idempotency_key.key = a.key LIMIT 1
) k
WHERE k.created_at > $5 - $6";

/// By place, what the first use of its idempotency key came to, where that is still remembered.
async fn used_keys(
    connection: &mut PgConnection,
    tasks: &[NewTask],
    now: Timestamp,
) -> Result<HashMap<usize, Submitted>, Fault> {
    let asked: Vec<_> = tasks
        .iter()
        .enumerate()
        .filter_map(|(place, task)| Some((place, task.tenant.as_str(), task.idempotency.as_ref()?)))
        .collect();
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(USED_KEYS)
        .bind(asked.iter().map(|(place, ..)| as_column(*place)).collect::<Vec<_>>())
        .bind(asked.iter().map(|(_, tenant, _)| *tenant).collect::<Vec<_>>())
        .bind(asked.iter().map(|(.., once)| once.key.as_str()).collect::<Vec<_>>())
        .bind(asked.iter().map(|(.., once)| once.fingerprint.as_slice()).collect::<Vec<_>>())
        .bind(now)
        .bind(interval(Idempotency::KEPT))
        .fetch_all(connection)
        .await?;
    let mut used = HashMap::with_capacity(rows.len());
    for row in &rows {
        let id = TaskId(field(row, "task")?);
        let first = if field(row, "same")? {
            let (created_at, run_at) = (field(row, "created_at")?, field(row, "run_at")?);
            Submitted::Replayed(Receipt { id, created_at, run_at, rank: Rank(id.0) })
        } else {
            Submitted::KeyReused(id)
        };
        used.insert(as_place(field(row, "place")?), first);
    }
    Ok(used)
}

/// One look at both the unfinished and the ended, so that a task that changes sides is seen once. The unfinished are
/// few, however many have ended with the same key; the ended are gone through from the newest until one counts.
pub(crate) const IN_THE_WAY: &str = "
SELECT a.question, greatest(unfinished.id, ended.id) AS id
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::interval[])
    AS a (question, tenant, key, among, or_ended, recent)
LEFT JOIN LATERAL (
    SELECT live.id FROM live
    WHERE live.tenant = a.tenant AND live.unique_key = a.key
        AND CASE WHEN live.worker IS NOT NULL THEN 'PROCESSING' WHEN live.ready THEN 'PENDING' ELSE 'SCHEDULED' END
            = ANY(string_to_array(a.among, ','))
        AND (a.recent IS NULL
            OR (SELECT task.created_at FROM task WHERE task.id = live.id) >= $7 - a.recent)
    ORDER BY live.id DESC LIMIT 1
) unfinished ON true
LEFT JOIN LATERAL (
    SELECT t.id FROM task t
    WHERE a.or_ended AND t.tenant = a.tenant AND t.unique_key = a.key
        AND (a.recent IS NULL OR t.created_at >= $7 - a.recent)
        AND (SELECT outcome.status FROM outcome WHERE outcome.task = t.id) = ANY(string_to_array(a.among, ','))
    ORDER BY t.id DESC LIMIT 1
) ended ON true
WHERE unfinished.id IS NOT NULL OR ended.id IS NOT NULL";

/// By place, the newest task that stands in its way: [`Unique::is_met_by`], as the database sees it. Those whose
/// request has an answer already need none.
async fn in_the_way(
    connection: &mut PgConnection,
    tasks: &[NewTask],
    used: &HashMap<usize, Submitted>,
    now: Timestamp,
) -> Result<HashMap<usize, TaskId>, Fault> {
    // Alike questions have one answer: those of one submission often share a key, whose history is gone through once then.
    let mut places: HashMap<(&str, &Unique), Vec<usize>> = HashMap::new();
    for (place, task) in tasks.iter().enumerate().filter(|(place, _)| !used.contains_key(place)) {
        if let Some(unique) = &task.unique {
            places.entry((task.tenant.as_str(), unique)).or_default().push(place);
        }
    }
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let (asked, places): (Vec<_>, Vec<_>) = places.into_iter().unzip();
    let among =
        |unique: &Unique| unique.among.iter().map(|status| status.as_str()).collect::<Vec<_>>().join(",");
    let or_ended = |unique: &Unique| unique.among.iter().any(|status| status.is_terminal());
    let rows = sqlx::query(IN_THE_WAY)
        .bind((0..asked.len()).map(as_column).collect::<Vec<_>>())
        .bind(asked.iter().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
        .bind(asked.iter().map(|(_, unique)| unique.key.as_str()).collect::<Vec<_>>())
        .bind(asked.iter().map(|(_, unique)| among(unique)).collect::<Vec<_>>())
        .bind(asked.iter().map(|(_, unique)| or_ended(unique)).collect::<Vec<_>>())
        .bind(asked.iter().map(|(_, unique)| unique.window.map(interval)).collect::<Vec<_>>())
        .bind(now)
        .fetch_all(connection)
        .await?;
    let mut in_the_way = HashMap::new();
    for row in &rows {
        let (question, id) = (as_place(field(row, "question")?), TaskId(field(row, "id")?));
        in_the_way.extend(places.get(question).into_iter().flatten().map(|place| (*place, id)));
    }
    Ok(in_the_way)
}

fn as_column(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

fn as_place(column: i64) -> usize {
    usize::try_from(column).unwrap_or(usize::MAX)
}
