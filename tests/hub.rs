//! Fetching from the Hugging Face Hub, of which a few lines on this machine play the part. Runs with `--features hub`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wgrad::Error;
use wgrad::checkpoint::hub::{HubOptions, fetch_with};
use wgrad::models::vit::{OpenOptions, open};

const COMMIT: &str = "0123abcd";
const FILES: [&str; 2] = ["config.json", "model.safetensors"];

/// How the server misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Says how long the weights are, and ends in their middle.
    Cut,
    /// The same without saying how long they are.
    CutInSilence,
    /// Redirections to nowhere.
    Nowhere,
    /// A tag that leads out of the cache.
    Tag,
    /// The same of the commit.
    Commit,
    /// No weights.
    NoWeights,
    /// Something else than an answer.
    Noise,
}

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/vit_hf")
}

/// Starts a server for `owner/tiny`; it answers as long as the test runs.
fn serve(fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        // A client that goes away in the middle is none of the server's business.
        listener.incoming().flatten().for_each(|stream| drop(answer(stream, fault)));
    });
    address
}

/// One request a connection.
fn answer(mut stream: TcpStream, fault: Fault) -> std::io::Result<()> {
    let lines: Vec<String> =
        BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return Ok(()) };
    let range = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    if fault == Fault::Noise {
        return stream.write_all(b"\0\xff\r\n\r\n");
    }
    if path == "/api/models/owner/tiny/revision/main" {
        let commit = if fault == Fault::Commit { "../../out" } else { COMMIT };
        let files = &FILES[..if fault == Fault::NoWeights { 1 } else { 2 }];
        let siblings: Vec<_> = files.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": commit, "siblings": siblings }).to_string();
        return write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
    let file = path.strip_prefix(&format!("/owner/tiny/resolve/{COMMIT}/")).filter(|name| FILES.contains(name));
    let (Some(name), Some(range)) = (file, range) else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    };
    if fault == Fault::Nowhere {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nConnection: close\r\nETag: tag\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: 0\r\n\r\n"
        );
    }
    send(stream, name, &range, fault)
}

fn send(mut stream: TcpStream, name: &str, range: &str, fault: Fault) -> std::io::Result<()> {
    let whole = fs::read(reference().join(name))?;
    let (first, last) = range.split_once('-').unwrap();
    let (first, last) = (first.parse().unwrap(), last.parse().unwrap_or(whole.len() - 1));
    let part = &whole[first..=last];
    let is_cut = name == "model.safetensors" && part.len() > 1 && matches!(fault, Fault::Cut | Fault::CutInSilence);
    let tag = if fault == Fault::Tag { "../../../out".to_owned() } else { format!("tag-of-{name}") };
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}\r\n\
         Content-Range: bytes {first}-{last}/{}\r\n",
        whole.len()
    )?;
    if fault != Fault::CutInSilence {
        write!(stream, "Content-Length: {}\r\n", part.len())?;
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(if is_cut { &part[..part.len() / 2] } else { part })
}

/// The folder that holds the cache, and fetching into it.
fn fetch(name: &str, fault: Fault) -> (TempDir, wgrad::Result<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let result = fetch_with(name, &options(folder.path(), serve(fault)));
    (folder, result)
}

fn options(folder: &Path, endpoint: String) -> HubOptions {
    let mut options = HubOptions::default();
    (options.endpoint, options.cache) = (Some(endpoint), Some(folder.join("home/hub")));
    options
}

#[test]
fn a_model_is_fetched_once() {
    let (folder, fetched) = fetch("owner/tiny", Fault::None);
    let fetched = fetched.unwrap();
    assert!(fetched.starts_with(folder.path()));
    let [got, expected] = [fetched, reference()].map(|path| open(path, &OpenOptions::default()).unwrap());
    assert!(got.config == expected.config && got.checkpoint.tensors == expected.checkpoint.tensors);
    assert_eq!(got.class_names, expected.class_names);

    // From the cache, though the server would no longer give it whole.
    let again = fetch_with("owner/tiny", &options(folder.path(), serve(Fault::Cut))).unwrap();
    assert_eq!(open(again, &OpenOptions::default()).unwrap().config, expected.config);
}

#[test]
fn what_is_no_name_is_refused() {
    for name in ["", "../x", "owner/..", "a/b/c", "owner/tiny@", "owner/tiny@../x", "./tiny", "owner/ti ny", "a/b@c/d"]
    {
        let error = fetch_with(name, &HubOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Argument { name: "name", .. }), "{name}: {error}");
    }
}

#[test]
fn what_is_not_there_is_told() {
    for name in ["owner/other", "owner/tiny@v2"] {
        let error = fetch(name, Fault::None).1.unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("404"), "{error}");
        assert!(error.to_string().contains(name.split('@').next().unwrap()), "{error}");
    }
    let error = fetch("owner/tiny", Fault::NoWeights).1.unwrap_err();
    assert!(error.to_string().contains("owner/tiny: holds neither model.safetensors nor"), "{error}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = fetch_with("owner/tiny", &options(folder.path(), format!("http://{free}"))).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

/// The next attempt, with a server that works, gives the model whole.
#[test]
fn a_file_that_is_cut_is_not_taken_for_whole() {
    for fault in [Fault::Cut, Fault::CutInSilence] {
        let (folder, result) = fetch("owner/tiny", fault);
        let error = result.unwrap_err().to_string();
        assert!(error.contains("owner/tiny"), "{error}");
        assert_eq!(error.contains("of the 272308 bytes of model.safetensors"), fault == Fault::CutInSilence, "{error}");
        let fetched = fetch_with("owner/tiny", &options(folder.path(), serve(Fault::None))).unwrap();
        for name in FILES {
            assert!(fs::read(fetched.join(name)).unwrap() == fs::read(reference().join(name)).unwrap(), "{name}");
        }
    }
}

#[test]
fn bad_answers_are_errors() {
    for fault in [Fault::Nowhere, Fault::Tag, Fault::Commit, Fault::Noise] {
        let (folder, result) = fetch("owner/tiny", fault);
        assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
        let out = ["out", "home/out", "home/hub/out"].map(|path| folder.path().join(path));
        assert!(out.iter().all(|path| !path.exists()));
    }
}
