//! Builds the default image into a store, and prints where it lies: `build_image STORE [NAME [PACKAGE...]]`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;

use hearth_image::{BuildSpec, ImageName, ImageStore, PackageName};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().ok_or("usage: build_image STORE [NAME [PACKAGE...]]")?;
    let name = ImageName::new(arguments.next().unwrap_or_else(|| "debian".to_owned()))?;
    let packages = arguments.map(PackageName::new).collect::<Result<_, _>>()?;
    let store = ImageStore::open(Path::new(&root))?;
    let spec = BuildSpec { packages, ..BuildSpec::new(name) };
    let started = std::time::Instant::now();
    let built = store
        .build(spec, move |p| eprintln!("{:5.1?} {:?} {}/{} {}", started.elapsed(), p.stage, p.done, p.total, p.text));
    let image = built.await.inspect_err(|error| eprintln!("{}", error.detail().unwrap_or_default()))?;
    println!("{}", image.rootfs().display());
    Ok(())
}
