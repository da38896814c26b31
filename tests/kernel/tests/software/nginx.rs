//! nginx and curl: kept connections, large files, uploads, HTTP/2 without TLS of its own.

use std::{fs, net::SocketAddr, path::Path};

use martlet_lab::Running;

use crate::stage::{Pair, Stage, Wire, wait_until_listening};

/// Nothing of the machine's own configuration. Uploads are kept, to be compared.
const CONFIGURATION: &str = "
    user root;
    pid nginx.pid;
    error_log stderr;
    events { worker_connections 256; }
    http {
        access_log off;
        client_max_body_size 100m;
        client_body_temp_path uploads;
        proxy_temp_path proxied;
        fastcgi_temp_path fastcgi;
        uwsgi_temp_path uwsgi;
        scgi_temp_path scgi;
        server {
            listen 80;
            listen [::]:80;
            root FILES;
            location = /who { return 200 \"$remote_addr\"; }
            location = /upload {
                client_body_in_file_only on;
                proxy_pass http://127.0.0.1:8080;
            }
        }
        server { listen 81 http2; listen [::]:81 http2; root FILES; }
        server {
            listen 127.0.0.1:8080;
            location / { return 200 \"$content_length\"; }
        }
    }
";

fn serve(pair: &Pair, files: &Path) -> Running {
    let directory = pair.server.directory().unwrap();
    let configuration = directory.join("nginx.conf");
    fs::write(&configuration, CONFIGURATION.replace("FILES", files.to_str().unwrap())).unwrap();
    let nginx =
        pair.server.command("nginx").arg("-p").arg(&directory).arg("-c").arg(&configuration);
    let mut nginx = nginx.args(["-e", "stderr", "-g", "daemon off;"]).spawn().unwrap();
    for port in [80, 81] {
        wait_until_listening(&mut nginx, &pair.server, port);
    }
    nginx
}

fn curl(pair: &Pair, arguments: &[&str]) -> String {
    pair.ask("curl", &[&["--silent", "--show-error", "--fail", "--globoff"], arguments].concat())
}

fn url(pair: &Pair, family: usize, port: u16, path: &str) -> String {
    format!("http://{}/{path}", SocketAddr::new(pair.servers()[family], port))
}

#[test]
fn curl_reuses_a_connection_to_nginx_which_sees_the_client() {
    let stage = Stage::set();
    let file = stage.file("page", 100_000);
    stage.compare(Wire::Watched, |pair| {
        let _nginx = serve(pair, file.parent().unwrap());
        [0, 1].map(|family| {
            let [page, who] = ["page", "who"].map(|path| url(pair, family, 80, path));
            let facts = "%{num_connects} %{http_code} %{http_version} %{size_download}\n";
            let mut arguments = vec!["--write-out", facts];
            for _ in 0..5 {
                arguments.extend(["--output", "copy", &page]);
            }
            let told = curl(pair, &arguments);
            assert_eq!(curl(pair, &[&who]), pair.client.addresses()[family].to_string());
            assert_eq!(
                fs::read(&file).unwrap(),
                fs::read(pair.client.directory().unwrap().join("copy")).unwrap()
            );
            told
        })
    });
}

#[test]
fn a_large_file_comes_and_goes_unchanged() {
    let stage = Stage::set();
    let file = stage.file("large", 64 << 20);
    stage.compare(Wire::Watched, |pair| {
        let _nginx = serve(pair, file.parent().unwrap());
        curl(pair, &["--output", "copy", &url(pair, 0, 80, "large")]);
        let copy = pair.client.directory().unwrap().join("copy");
        assert!(fs::read(&file).unwrap() == fs::read(copy).unwrap(), "the download differs");
        let upload = format!("@{}", file.display());
        let told = curl(pair, &["--data-binary", &upload, &url(pair, 1, 80, "upload")]);
        let uploads = pair.server.directory().unwrap().join("uploads");
        let uploads: Vec<_> = fs::read_dir(uploads).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(uploads.len(), 1, "{uploads:?}");
        assert!(fs::read(&file).unwrap() == fs::read(&uploads[0]).unwrap(), "the upload differs");
        told
    });
}

#[test]
fn http2_works_without_tls_of_its_own() {
    let stage = Stage::set();
    let file = stage.file("page", 2 << 20);
    stage.compare(Wire::Watched, |pair| {
        let _nginx = serve(pair, file.parent().unwrap());
        // One request each: the curl of Debian 12 cannot use such a connection twice.
        [0, 1].map(|family| {
            let page = url(pair, family, 81, "page");
            let facts = "%{http_code} %{http_version} %{size_download}";
            let arguments =
                ["--http2-prior-knowledge", "--write-out", facts, "--output", "copy", &page];
            let told = curl(pair, &arguments);
            let copy = pair.client.directory().unwrap().join("copy");
            assert!(fs::read(&file).unwrap() == fs::read(copy).unwrap(), "the download differs");
            told
        })
    });
}
