//! The page with charts, in a real browser without a window: empty, busy, not ready, failing and without an answer, in light and dark,
//! on a desk and on a phone. `make page` runs it where Chromium is; what it looked like is in `page` in the target directory.

mod support;

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use support::{Server, text, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
};

/// Told to the page so that the test can see whether anything is wider than the window.
const MEASURE: &str =
    "\nsetTimeout(() => { document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth; }, 1000);\n";

/// Chromium, by the name in `BENNU_BROWSER` or one of its usual ones.
fn browser() -> String {
    let names = env::var("BENNU_BROWSER").map_or_else(
        |_| ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned).to_vec(),
        |name| vec![name],
    );
    let path = env::var("PATH").unwrap();
    let there = |name: &String| env::split_paths(&path).any(|directory| directory.join(name).exists());
    names.into_iter().find(there).expect("Chromium is installed, or BENNU_BROWSER says what is")
}

/// Where pictures go.
fn pictures() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// How the page is looked at.
#[derive(Clone, Copy)]
struct Look {
    name: &'static str,
    dark: bool,
    width: u32,
}

const DESK: Look = Look { name: "desk", dark: false, width: 1280 };
const DARK: Look = Look { name: "dark", dark: true, width: 1280 };
const PHONE: Look = Look { name: "phone", dark: true, width: 390 };

/// Opens the page: what it consists of once scripts have run, and a picture of it.
async fn open(address: SocketAddr, state: &str, look: Look) -> String {
    let picture = pictures().join(format!("{state}-{}.png", look.name));
    let profile = tempfile::tempdir().unwrap();
    let window = format!("--window-size={},1500", look.width);
    let command = || {
        let mut command = Command::new(browser());
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=3000",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(&window);
        command.arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!look.dark))).kill_on_drop(true);
        command
    };
    let url = format!("http://{address}/");
    let shot = command().arg(format!("--screenshot={}", picture.display())).arg(&url).output();
    assert!(within("a picture", shot).await.unwrap().status.success());
    let png = fs::read(&picture).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 8 << 10, "{} has nothing in it", picture.display());
    let dumped = within("the page", command().arg("--dump-dom").arg(&url).output()).await.unwrap();
    String::from_utf8(dumped.stdout).unwrap()
}

/// A homeserver's page with other figures, or with none if there are none.
async fn pretend(figures: Option<Value>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, figures.clone()));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, figures: Option<Value>) {
    let mut request = vec![0; 8 << 10];
    let length = stream.read(&mut request).await.unwrap();
    let request = String::from_utf8_lossy(&request[..length]);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/node/watch/page");
    let read = |name: &str| fs::read_to_string(page.join(name)).unwrap();
    let (content_type, body) = match request.split(' ').nth(1) {
        Some("/") => ("text/html", read("index.html")),
        Some("/page.css") => ("text/css", read("page.css")),
        Some("/page.js") => ("text/javascript", read("page.js") + MEASURE),
        Some("/figures") => match figures {
            Some(figures) => ("application/json", figures.to_string()),
            // It is gone.
            None => return,
        },
        _ => ("text/plain", String::new()),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A browser that has seen enough goes.
    let _ = stream.write_all((head + &body).as_bytes()).await;
}

/// What a real homeserver that has just started says.
async fn figures_of_a_new_homeserver() -> Value {
    let server = Server::start_watched().await;
    let mut stream = TcpStream::connect(server.figures().unwrap()).await.unwrap();
    stream.write_all(b"GET /figures HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("figures", stream.read_to_string(&mut answer)).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// An hour in which much happened, in the form that a real homeserver uses.
fn busy(new: &Value) -> Value {
    let fields = new["history"]["fields"].as_array().unwrap().clone();
    let value = |field: &str, at: u64| match field {
        "time" => json!(1_795_000_000 + at * 5),
        "requests" => json!(900 + at % 97 * 7),
        "messages" => json!(700 + at % 83 * 6),
        "p50" => json!(2.0),
        "p99" => json!(if at.is_multiple_of(60) { 64.0 } else { 16.0 }),
        "connections" => json!(12_345),
        "memory" => json!(300_000_000 + at * 10_000),
        "disk_free" => json!(90_000_000_000u64 - at * 1_000_000),
        "overloaded" | "internal" => json!(0),
        _ => json!(at % 13),
    };
    let row = |at| fields.iter().map(|field| value(field.as_str().unwrap(), at)).collect::<Vec<_>>();
    let mut busy = new.clone();
    busy["history"]["rows"] = (0..720).map(row).collect::<Vec<_>>().into();
    busy["uptime"] = json!(200_000);
    busy["methods"] = json!([["DsSendMessage", 1_234_567, 12, 3.2], ["QsListen", 54_321, 0, 0.4]]);
    busy["queues"] = json!([["0", 9_000], ["1-9", 800], ["10-99", 0], ["100-999", 3]]);
    busy["peers"] = json!([["b.example", "connected", 0, 0, null, ""]]);
    busy
}

#[tokio::test]
#[ignore = "needs Chromium: make page"]
async fn the_page_shows_how_a_homeserver_is() {
    let new = figures_of_a_new_homeserver().await;
    let empty = pretend(Some(new.clone())).await;
    let page = open(empty, "empty", DESK).await;
    assert!(page.contains("data-state=\"ready\"") && page.contains(">a.test</h1>"), "{page}");
    assert_eq!(page.matches("<figure").count(), 14, "{page}");
    assert!(page.contains("<table id=\"peers\" hidden"), "{page}");

    let full = pretend(Some(busy(&new))).await;
    for look in [DESK, DARK, PHONE] {
        let page = open(full, "busy", look).await;
        assert!(page.contains("data-state=\"ready\"") && page.contains("data-wide=\"false\""), "{}: {page}", look.name);
        let last = busy(&new)["history"]["rows"][719][1].clone();
        assert!(page.contains(&format!("<strong>{last}</strong>")), "{last} requests a second: {page}");
        for part in
            ["<td>DsSendMessage</td><td>1235k</td><td>12</td>", "up for 2 d 7 h", "<td>1-9</td><td>800</td>", "12.3k"]
        {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(page.contains("id=\"alert\" role=\"alert\" hidden"), "{page}");
    }

    let mut failing = busy(&new);
    failing["condition"] = json!("100 MiB are free on the disk, less than the reserve of 256 MiB");
    failing["peers"] =
        json!([["b.example", "failing", 17, 4, 7_260, "nobody answers"], ["<b>.example", "idle", 0, 0, null, ""]]);
    let at = failing["history"]["fields"].as_array().unwrap().iter().position(|field| field == "internal").unwrap();
    failing["history"]["rows"][719][at] = json!(3);
    let failing = pretend(Some(failing)).await;
    for look in [DESK, PHONE] {
        let page = open(failing, "failing", look).await;
        assert!(page.contains("data-state=\"unready\"") && page.contains("data-wide=\"false\""), "{page}");
        assert!(
            page.contains("Not ready: 100 MiB are free")
                && page.contains("<figure id=\"chart-internal\" class=\"bad\">"),
            "{page}"
        );
        assert!(page.contains("<td class=\"bad\">failing, 4 times: nobody answers</td>"), "{page}");
        assert!(page.contains("&lt;b&gt;.example") && page.contains("2 h 1 min"), "what others choose is text: {page}");
    }

    let gone = pretend(None).await;
    let page = open(gone, "lost", DESK).await;
    assert!(page.contains("data-state=\"lost\"") && page.contains("does not answer"), "{page}");
}

#[tokio::test]
#[ignore = "needs Chromium: make page"]
async fn a_real_homeserver_shows_what_its_clients_do() {
    let server = Server::start_watched().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = support::connect(&alice, &bob).await;
    within("sending", alice.send(&chat, text("hello"))).await.unwrap();
    let page = open(server.figures().unwrap(), "real", DESK).await;
    assert!(
        page.contains("data-state=\"ready\"") && page.contains("<td>DsSendMessage</td><td>1</td><td>0</td>"),
        "{page}"
    );
}
