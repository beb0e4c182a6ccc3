//! Making a template: a machine is booted, warmed up and saved.

use std::sync::Arc;

use hearth_image::Image;
use hearth_protocol::{Command, Start};
use hearth_vmm::Qemu;

use super::{Template, TemplateKey, Templates, store};
use crate::accelerator::Way;
use crate::boot::{Booted, Phases, Plan};
use crate::create::disks;
use crate::{Engine, EngineError, SandboxId, SandboxSpec};

/// What every guest has done once before it is saved, so that its first program finds files and the agent's own code in memory. What an
/// image lacks is left out.
const WARM_UP: [&[&str]; 3] = [&["true"], &["python3", "-c", "pass"], &["bash", "-c", "true"]];

/// What a template is asked for with.
pub(crate) struct Request<'a> {
    pub(crate) spec: &'a SandboxSpec,
    pub(crate) qemu: &'a Qemu,
    pub(crate) image: &'a Image,
}

/// A template, and what was found out while it was made.
pub(crate) struct Found {
    pub(crate) template: Arc<Template>,
    /// The ways that did not work, where it was made just now.
    pub(crate) failed: Vec<String>,
}

impl Engine {
    /// Returns the template for a sandbox: the one in memory, else the one on disk, else one made now, for which everybody
    /// who asks for it meanwhile waits.
    pub(crate) async fn template(&self, request: &Request<'_>) -> Result<Found, EngineError> {
        let (_, ways) = self.ways(request.spec, request.qemu, request.image);
        let way = *ways.first().expect("there is always a way to try");
        let key = self.template_key(request, way)?;
        let cell = self.templates.cell(&key);
        let mut failed = Vec::new();
        let template = cell
            .get_or_try_init(|| async {
                match self.templates.load(&key, way) {
                    Ok(Some(template)) => return Ok(Arc::new(template)),
                    // One that is damaged or stale is made again.
                    Ok(None) | Err(_) => {}
                }
                let (template, ways) = self.make_template(request).await?;
                failed = ways;
                Ok::<_, EngineError>(Arc::new(template))
            })
            .await?;
        Ok(Found { template: template.clone(), failed })
    }

    pub(crate) fn template_key(&self, request: &Request<'_>, way: Way) -> Result<TemplateKey, EngineError> {
        let directory = self.directories.sandboxes();
        let disks = disks(request.image, &directory, request.spec);
        let plan =
            Plan { spec: request.spec, qemu: request.qemu, image: request.image, directory: &directory, disks: &disks };
        TemplateKey::of(&self.machine_spec(&plan, way)?, request.qemu, request.image)
    }

    async fn make_template(&self, request: &Request<'_>) -> Result<(Template, Vec<String>), EngineError> {
        let Request { spec, qemu, image } = *request;
        let directory = self.make_directory(SandboxId::random())?;
        let disks = disks(image, directory.path(), spec);
        let plan = Plan { spec, qemu, image, directory: directory.path(), disks: &disks };
        let mut phases = Phases::since(std::time::Instant::now());
        let Booted { machine, channel, way, failed } = self.boot(&plan, &directory, &mut phases).await?;
        for argv in WARM_UP {
            let mut start = Start::new(Command::Argv(argv.iter().map(|word| (*word).into()).collect()));
            start.attach = Some(hearth_protocol::Delivery::Lossless);
            // A program that is not there is no fault of the guest's.
            let Ok(process) = channel.start(start).await else { continue };
            while let Ok(Some(_)) = process.next_event().await {}
        }
        let saved = machine.into_template().await.map_err(|source| EngineError::Machine { source })?;
        // The guest was saved with a host at its ports; it finds one there again when it is restored.
        drop(channel);
        let template = Template { key: self.template_key(request, way)?, way, saved };
        self.templates.keep(&template, request)?;
        Ok((template, failed))
    }
}

impl Templates {
    /// Keeps a template on disk. That it cannot be kept is no reason not to use it, unless it is the user's to mend.
    fn keep(&self, template: &Template, request: &Request<'_>) -> Result<(), EngineError> {
        store::write(&self.directory, template, request).map_err(|source| EngineError::Template { source })
    }

    /// Loads a template from disk, if it is there.
    fn load(&self, key: &TemplateKey, way: Way) -> Result<Option<Template>, store::TemplateFault> {
        let loaded = store::read(&self.directory, key)?;
        Ok(loaded.map(|saved| Template { key: key.clone(), way, saved }))
    }
}
