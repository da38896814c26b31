//! Manifests of pods with nothing but a shell and small programs.

use std::env;

/// On a cluster that is not ours, an image with busybox that its nodes have.
pub fn image() -> String {
    env::var("MARTLET_TEST_IMAGE").unwrap_or_else(|_| "localhost/busybox:1".to_owned())
}

/// A pod that does nothing but wait for what is run in it.
pub fn idle(name: &str, node: &str) -> String {
    pod(name, node, "sleep 100000", "")
}

/// The same, with the node's network.
pub fn on_host(name: &str, node: &str) -> String {
    idle(name, node).replace("\nspec:\n", "\nspec:\n  hostNetwork: true\n")
}

/// The same, and not ready before its status says that it is enrolled.
pub fn gated(name: &str, node: &str) -> String {
    let gate = "\nspec:\n  readinessGates: [{conditionType: martlet.dev/enrolled}]\n";
    idle(name, node).replace("\nspec:\n", gate)
}

/// A pod that answers HTTP requests on port 8080 with one text, and is ready when it does.
pub fn web(name: &str, node: &str, text: &str) -> String {
    let serve = format!("mkdir /www && echo {text} > /www/index.html && httpd -f -p 8080 -h /www");
    let more = "\n    ports: [{name: web, containerPort: 8080}]\n    \
        readinessProbe: {httpGet: {path: /, port: web}, periodSeconds: 1}";
    pod(name, node, &serve, more)
}

/// A pod that answers with one text, and that nobody probes: only who calls it hears it.
pub fn quiet_web(name: &str, node: &str, text: &str) -> String {
    let serve =
        format!("mkdir -p /www && echo {text} > /www/index.html && httpd -f -p 8080 -h /www");
    pod(name, node, &serve, "\n    ports: [{name: web, containerPort: 8080}]")
}

/// A pod that calls a URL from its first moment on, again and again, and is ready while it is answered.
pub fn caller(name: &str, node: &str, url: &str) -> String {
    let call = format!(
        "while sleep 0.1; do if timeout 2 wget -q -O /tmp/now {url}; then mv /tmp/now /tmp/last; else rm -f /tmp/last; fi; done"
    );
    let more = "\n    readinessProbe: {exec: {command: [test, -e, /tmp/last]}, periodSeconds: 1}";
    pod(name, node, &call, more)
}

/// A pod that does something once, as a service account.
pub fn brief(name: &str, node: &str, account: &str, script: &str) -> String {
    let (image, script) = (image(), script.replace('\n', "\n      "));
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{brief: \"true\"}}}}
spec:
  nodeName: {node}
  serviceAccountName: {account}
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {image}
    imagePullPolicy: IfNotPresent
    command:
    - /bin/sh
    - -c
    - |
      {script}
"
    )
}

fn pod(name: &str, node: &str, command: &str, more: &str) -> String {
    let image = image();
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {image}
    imagePullPolicy: IfNotPresent
    command: [/bin/sh, -c, \"trap 'exit 0' TERM; {command} & wait\"]{more}
"
    )
}
