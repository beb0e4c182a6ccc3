//! `hearth image`: build, list, inspect, rm.

use std::time::Duration;

use hearth_client::api::home::ImageInfo;
use hearth_engine::Engine;
use hearth_engine::image::{
    BuildSpec, Image, ImageError, ImageName, KernelSource, Mirror, PackageName, Progress, Stage, Suite,
};
use hearth_server::home::image_info;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::arguments::{BuildOptions, ImageCommand};
use crate::failure::Failure;
use crate::kept::Kept;
use crate::signals::Signals;
use crate::{home, output};

/// Runs an image command.
pub(crate) async fn run(command: ImageCommand) -> Result<i32, Failure> {
    match command {
        ImageCommand::Build(options) => return build(&home::open()?, options).await,
        ImageCommand::List { json } => list(&Kept::open()?.images().await?, json)?,
        ImageCommand::Inspect { image, .. } => output::print_json(&Kept::open()?.image(&image).await?)?,
        ImageCommand::Rm { images, json } => {
            let kept = Kept::open()?;
            for image in &images {
                kept.remove_image(image).await?;
                if !json {
                    output::say(&format!("removed {image}"));
                }
            }
            if json {
                output::print_json(&json!({ "removed": images }))?;
            }
        }
    }
    Ok(0)
}

async fn build(engine: &Engine, options: BuildOptions) -> Result<i32, Failure> {
    let spec = build_spec(&options)?;
    if options.if_missing {
        match engine.images().inspect(&options.name) {
            // One that was built for something else, or by the rules of another version, is not what is asked for.
            Ok(image) if image.manifest.spec == spec.digest()? => {
                return report(&image, "is there already", options.json);
            }
            Ok(_) | Err(ImageError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let bar = Bar::new();
    let drawn = bar.clone();
    let building = engine.images().build(spec, move |progress| drawn.draw(&progress));
    let built = tokio::select! {
        built = building => built,
        code = signals.first() => {
            bar.clear();
            output::say("hearth: the build was interrupted; what it has downloaded is kept");
            return Ok(code);
        }
    };
    bar.clear();
    report(&built?, "is ready", options.json)
}

fn build_spec(options: &BuildOptions) -> Result<BuildSpec, Failure> {
    let mut spec = BuildSpec::new(ImageName::new(options.name.as_str())?);
    spec.suite = Suite::new(options.suite.as_str())?;
    spec.packages = options.packages.iter().map(|name| PackageName::new(name.as_str())).collect::<Result<_, _>>()?;
    if let Some(kernel) = &options.kernel {
        spec.kernel = KernelSource::File { kernel: kernel.clone(), modules: options.modules.clone() };
    }
    if let Some(mirror) = &options.mirror {
        spec.mirror = Mirror::new(mirror)?;
    }
    Ok(spec)
}

fn report(image: &Image, what: &str, json: bool) -> Result<i32, Failure> {
    if json {
        output::print_json(&image_info(image))?;
    } else {
        let name = image.name.as_ref().map_or_else(|| image.digest.short().to_owned(), ToString::to_string);
        let size = output::bytes(image.manifest.total_bytes());
        output::say(&format!(
            "image {name} {what}: {size}, Linux {}, {}",
            image.kernel_release(),
            image.digest.short()
        ));
    }
    Ok(0)
}

fn list(images: &[ImageInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::print_json(&images);
    }
    let row = |image: &ImageInfo| {
        vec![
            image.name.as_deref().map_or_else(|| "-".to_owned(), output::plain),
            output::plain(short(&image.digest)),
            output::plain(&image.suite),
            output::plain(&image.kernel.release),
            output::bytes(image.bytes),
        ]
    };
    output::print_table(&["NAME", "DIGEST", "SUITE", "KERNEL", "SIZE"], &images.iter().map(row).collect::<Vec<_>>())
}

/// The digits of a digest that people read.
fn short(digest: &str) -> &str {
    let digits = digest.rsplit(':').next().unwrap_or_default();
    digits.get(..12).unwrap_or(digits)
}

/// An image as people read it: its name, or the first digits of its digest.
pub(super) fn named(image: &str) -> &str {
    let is_digest = image.len() == 64 && image.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { short(image) } else { image }
}

/// The progress of a build: a bar on a terminal, nothing elsewhere.
#[derive(Clone)]
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix:9} [{bar:32}] {percent:>3}%  {wide_msg}");
        bar.set_style(style.expect("the template is valid").progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    fn draw(&self, progress: &Progress) {
        let name = match progress.stage {
            Stage::Wait => "waiting",
            Stage::Resolve => "lists",
            Stage::Download => "download",
            Stage::Install => "install",
            Stage::Pack => "pack",
            Stage::Kernel => "kernel",
            Stage::Publish => "publish",
        };
        self.0.set_prefix(name);
        self.0.set_length(progress.total.max(1));
        self.0.set_position(progress.done);
        self.0.set_message(progress.text.clone());
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}
