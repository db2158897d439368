use std::time::Duration;

use contract_tests::servers::PostgresServer;
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for bytes to have come, had they been let through.
const MOMENT: Duration = Duration::from_millis(100);

/// A server that answers each byte with the same byte in a group of ten.
async fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok()
                    && stream.write_all(&[byte[0]; 10]).await.is_ok()
                {}
            });
        }
    });
    port
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.expect("the proxy listens")
}

async fn ask(stream: &mut TcpStream, byte: u8) -> io::Result<[u8; 10]> {
    stream.write_all(&[byte]).await?;
    let mut answer = [0; 10];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time")?;
    Ok(answer)
}

fn is_reset(outcome: &io::Result<[u8; 10]>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

async fn proxy() -> Proxy {
    Proxy::start(echo().await, Wire::Talk, 1).await.expect("a proxy")
}

#[tokio::test]
async fn bytes_pass_and_may_be_late() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, 7).await.expect("an answer"), [7; 10]);
    proxy.set(Mode::Delay(MOMENT));
    let asked = tokio::time::Instant::now();
    assert_eq!(ask(&mut stream, 8).await.expect("an answer"), [8; 10]);
    assert!(asked.elapsed() >= 2 * MOMENT, "late on both ways: {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_black_hole_answers_nothing_closes_nothing_and_lets_go() {
    let proxy = proxy().await;
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, 1).await.expect("an answer"), [1; 10]);
    proxy.set(Mode::BlackHole);
    let mut new = connect(&proxy).await;
    for stream in [&mut old, &mut new] {
        stream.write_all(&[2]).await.expect("accepted");
        assert!(timeout(MOMENT, stream.read_u8()).await.is_err(), "neither an answer nor an end");
    }
    proxy.set(Mode::Pass);
    for stream in [&mut old, &mut new] {
        let mut answer = [0; 10];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
        assert_eq!(answer, [2; 10], "what was held back has gone on its way");
    }
}

#[tokio::test]
async fn forgotten_connections_stay_mute_and_new_ones_work() {
    let proxy = proxy().await;
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, 1).await.expect("an answer"), [1; 10]);
    proxy.set(Mode::Forget);
    let forgotten = async {
        while proxy.counts().forgotten < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, forgotten).await.expect("both directions are mute, though nothing was said");
    proxy.set(Mode::Pass);
    old.write_all(&[2]).await.expect("accepted");
    assert!(timeout(MOMENT, old.read_u8()).await.is_err(), "neither an answer nor an end");
    assert_eq!(ask(&mut connect(&proxy).await, 3).await.expect("an answer"), [3; 10]);
    proxy.reset();
    assert!(
        timeout(PATIENCE, old.read_u8()).await.expect("in time").is_err(),
        "a reset reaches it all the same"
    );
}

#[tokio::test]
async fn resets_and_refusals_are_seen_as_such() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, 1).await.expect("an answer"), [1; 10]);
    proxy.reset();
    let outcome = ask(&mut stream, 2).await;
    assert!(outcome.is_err(), "{outcome:?}");
    proxy.set(Mode::Refuse);
    let outcome = ask(&mut connect(&proxy).await, 1).await;
    assert!(outcome.is_err(), "{outcome:?}");
    proxy.set(Mode::Pass);
    assert_eq!(ask(&mut connect(&proxy).await, 3).await.expect("an answer"), [3; 10]);
}

#[tokio::test]
async fn a_cut_after_some_bytes_is_in_the_middle_of_a_message() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, 1).await.expect("an answer"), [1; 10]);
    proxy.set(Mode::CutAfter(14));
    assert_eq!(ask(&mut stream, 2).await.expect("an answer"), [2; 10]);
    stream.write_all(&[3]).await.expect("accepted");
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time");
    assert!(rest.len() <= 4 && (end.is_err() || rest.len() == 4), "{rest:?}, {end:?}");
    assert_eq!(proxy.counts().cut_midway, 1);
}

#[tokio::test]
async fn an_answer_is_cut_after_the_question_was_heard() {
    let proxy = proxy().await;
    proxy.cut_answers(1, 1);
    let outcome = ask(&mut connect(&proxy).await, 1).await;
    assert!(is_reset(&outcome), "{outcome:?}");
    assert_eq!(
        ask(&mut connect(&proxy).await, 2).await.expect("an answer"),
        [2; 10],
        "only one was to be cut"
    );
    assert_eq!(proxy.counts().answers_cut, 1);
}

#[tokio::test]
async fn a_commit_takes_effect_and_its_answer_is_lost() {
    let url = PostgresServer::shared().create_empty_database().await;
    let (proxy, through) = Proxy::before(&url, Wire::Postgres, 1).await.expect("a proxy");
    let options: PgConnectOptions = through.parse().expect("a URL");
    let mut direct = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql("CREATE TABLE t (n bigint)").execute(&mut direct).await.expect("a table");

    let mut through = options.connect().await.expect("a connection");
    let count = async |connection: &mut PgConnection| {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t").fetch_one(connection).await.expect("a count")
    };
    proxy.cut_answers(1, u64::MAX);
    assert_eq!(count(&mut through).await, 0, "reads pass");
    let insert = "INSERT INTO t SELECT n FROM generate_series(1, 5000) n RETURNING n";
    let lost = sqlx::query(insert).fetch_all(&mut through).await;
    assert!(matches!(lost, Err(sqlx::Error::Io(_))), "{:?}", lost.map(|rows| rows.len()));
    assert_eq!(count(&mut direct).await, 5000, "and yet it was done");

    // In a transaction it is the COMMIT's answer that is lost.
    let mut through = options.connect().await.expect("a connection");
    let mut transaction = through.begin().await.expect("a transaction");
    sqlx::query("DELETE FROM t WHERE n > $1")
        .bind(100_i64)
        .execute(&mut *transaction)
        .await
        .expect("not committed yet");
    assert_eq!(count(&mut direct).await, 5000);
    assert!(transaction.commit().await.is_err());
    assert_eq!(count(&mut direct).await, 100);

    // A roll-back has nothing to lose.
    let mut through = options.connect().await.expect("a connection");
    let mut transaction = through.begin().await.expect("a transaction");
    sqlx::query("DELETE FROM t").execute(&mut *transaction).await.expect("not committed");
    transaction.rollback().await.expect("an answer");
    assert_eq!(count(&mut through).await, 100);
    assert_eq!(proxy.counts().answers_cut, 2);
}
