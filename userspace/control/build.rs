//! Makes the messages and the service's skeleton from `proto/`, without any installed compiler.

const PACKAGE: &str = ".martlet.control.v1alpha1";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files = protox::compile(["martlet/control/v1alpha1/control.proto"], ["proto"])?;
    // The same on the wire; its Rust type has room for what was encoded before.
    let services = files.file.iter_mut().flat_map(|file| &mut file.service);
    for method in services.flat_map(|service| &mut service.method) {
        if method.output_type() == format!("{PACKAGE}.ToAgent") {
            method.output_type = Some(format!("{PACKAGE}.Telling"));
        }
    }
    tonic_prost_build::configure()
        .extern_path(format!("{PACKAGE}.Telling"), "crate::Telling")
        .compile_fds(files)?;
    Ok(())
}
