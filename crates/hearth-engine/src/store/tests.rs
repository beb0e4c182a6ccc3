use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::accelerator::Way;
use crate::fleet::IdleAction;
use crate::{DiskMib, FileRecord, Given, SandboxSpec, StartFrom};

/// What can be done to the database.
#[derive(Debug, Clone)]
enum Step {
    /// Of sandboxes that are not there yet.
    Add(Vec<Lasting>),
    Change(usize, Changed),
    Stands(usize, Kept),
    Publish(usize, Vec<u16>),
    Remove(usize),
    /// Something that fails half-way.
    GiveUp,
    Checkpoint,
    /// The process is killed, and another opens it.
    Kill,
}

fn time(seconds: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.into())
}

fn name() -> impl Strategy<Value = Option<SandboxName>> {
    prop::option::of("[a-z]{1,2}".prop_map(|name| SandboxName::new(name).unwrap()))
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[a-z]{1,3}", "[a-z\u{e9} ]{0,5}", 0..3).prop_map(|labels| Labels::new(labels).unwrap())
}

fn idle() -> impl Strategy<Value = Option<IdlePolicy>> {
    let action = prop_oneof![Just(IdleAction::Pause), Just(IdleAction::Remove)];
    prop::option::of((action, 1_u64..100_000).prop_map(|(action, time)| IdlePolicy::new(action, time).unwrap()))
}

fn state() -> impl Strategy<Value = Kept> {
    let file = |bytes| FileRecord { bytes, xxh3: format!("{bytes:016x}") };
    prop_oneof![
        Just(Kept::Running),
        Just(Kept::Stopped),
        (any::<u32>(), 0_usize..17, any::<bool>()).prop_map(move |(bytes, overlays, quiet)| Kept::Paused(
            PauseRecord {
                devices: file(bytes.into()),
                memory: file(u64::from(bytes) + 1),
                overlays,
                quiet,
                checkpoint: None
            }
        )),
        ".{0,20}".prop_map(Kept::Failed),
    ]
}

fn changed() -> impl Strategy<Value = Changed> {
    (name(), labels(), prop::option::of(any::<u32>().prop_map(time)), idle())
        .prop_map(|(name, labels, expires, idle)| Changed { name, labels, expires, idle })
}

fn lasting() -> impl Strategy<Value = Lasting> {
    let disk = prop::option::of(16_u32..1000);
    let env = prop::collection::btree_map("[A-Z]{1,3}", prop::collection::vec(1_u8.., 0..4), 0..3);
    let template = prop::option::of((any::<u64>(), any::<u64>()));
    (changed(), state(), disk, env, template, any::<u32>(), 0_usize..17).prop_map(
        |(changed, state, disk, env, template, created, disk_below)| {
            let env = env.into_iter().map(|(key, value)| (key, value.into()));
            let template =
                template.map(|(key, memory)| TemplateId::parse(&format!("{key:032x}-{memory:016x}")).unwrap());
            Lasting {
                id: SandboxId::random(),
                name: changed.name,
                labels: changed.labels,
                created: time(created),
                expires: changed.expires,
                idle: changed.idle,
                spec: SandboxSpec {
                    image: "an image".into(),
                    disk: disk.map(|mib| DiskMib::new(mib).unwrap()),
                    start: if template.is_some() { StartFrom::Template } else { StartFrom::Boot },
                    given: Given { env: env.collect(), secrets: Vec::new() },
                    ..SandboxSpec::default()
                },
                digest: "a digest".into(),
                template,
                way: Way::named("tcg", "microvm").unwrap(),
                disk_below,
                state,
                ports: Vec::new(),
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(lasting(), 1..3).prop_map(Step::Add),
        2 => (any::<usize>(), changed()).prop_map(|(which, changed)| Step::Change(which, changed)),
        3 => (any::<usize>(), state()).prop_map(|(which, state)| Step::Stands(which, state)),
        2 => (any::<usize>(), prop::collection::vec(1_u16..9, 0..3)).prop_map(|(which, ports)| Step::Publish(which, ports)),
        2 => any::<usize>().prop_map(Step::Remove),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Checkpoint),
        3 => Just(Step::Kill),
    ]
}

/// What must be there: sandboxes by their ids.
#[derive(Default)]
struct Model(BTreeMap<String, Lasting>);

impl Model {
    fn id(&self, which: usize) -> Option<SandboxId> {
        self.0.values().nth(which % self.0.len().max(1)).map(|last| last.id.clone())
    }

    /// A name is its newest bearer's.
    fn free(&mut self, name: Option<&SandboxName>, but: &SandboxId) {
        self.0.retain(|_, last| last.id == *but || name.is_none() || last.name.as_ref() != name);
    }

    fn add(&mut self, last: &Lasting) {
        self.free(last.name.as_ref(), &last.id);
        self.0.insert(last.id.to_string(), last.clone());
    }

    fn change(&mut self, id: &SandboxId, changed: Changed) {
        self.free(changed.name.as_ref(), id);
        let last = self.0.get_mut(id.as_str()).unwrap();
        (last.name, last.labels, last.expires, last.idle) =
            (changed.name, changed.labels, changed.expires, changed.idle);
    }

    fn publish(&mut self, id: &SandboxId, ports: &[PublishedPort]) {
        for last in self.0.values_mut() {
            last.ports.retain(|port| last.id != *id && ports.iter().all(|new| new.listen != port.listen));
        }
        let own = self.0.get_mut(id.as_str()).unwrap();
        for port in ports {
            own.ports.retain(|other| other.listen != port.listen);
            own.ports.push(port.clone());
        }
        own.ports.sort_by_key(|port| port.listen.to_string());
    }

    fn take(&mut self, step: Step, store: &mut Store, directory: &Path) {
        match step {
            Step::Add(new) => {
                store.add(&new).unwrap();
                new.iter().for_each(|last| self.add(last));
            }
            Step::Change(which, changed) => {
                let Some(id) = self.id(which) else { return };
                store.change(&id, &changed).unwrap();
                self.change(&id, changed);
            }
            Step::Stands(which, state) => {
                let Some(id) = self.id(which) else { return };
                store.stands(&id, &state).unwrap();
                self.0.get_mut(id.as_str()).unwrap().state = state;
            }
            Step::Publish(which, ports) => {
                let Some(id) = self.id(which) else { return };
                let port = |port| PublishedPort {
                    listen: ([127, 0, 0, 1], port).into(),
                    guest_port: port + 1,
                    guest_host: (port % 2 == 0).then(|| "::1".to_owned()),
                    service: None,
                };
                let ports: Vec<_> = ports.into_iter().map(port).collect();
                store.publish(&id, &ports).unwrap();
                self.publish(&id, &ports);
            }
            Step::Remove(which) => {
                let Some(id) = self.id(which) else { return };
                store.remove(&id).unwrap();
                self.0.remove(id.as_str());
            }
            Step::GiveUp => {
                let given_up = store.commit(|step| {
                    step.execute("DELETE FROM sandbox", [])?;
                    Err(rusqlite::Error::InvalidQuery)
                });
                assert!(given_up.is_err());
            }
            Step::Checkpoint => store.checkpoint(),
            // It closes nothing and writes nothing more.
            Step::Kill => std::mem::forget(std::mem::replace(store, Store::open(directory).unwrap())),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_was_committed_is_there_for_the_next_process(steps in prop::collection::vec(step(), 0..24)) {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        let (mut model, mut store) = (Model::default(), Store::open(&directory).unwrap());
        for step in steps.into_iter().chain([Step::Kill]) {
            model.take(step, &mut store, &directory);
            let there = store.all().unwrap();
            prop_assert_eq!(&there.unreadable, &Vec::<String>::new());
            prop_assert_eq!(&there.sandboxes, &model.0.values().cloned().collect::<Vec<_>>());
        }
        let pinned = templates_in(&directory);
        prop_assert!(model.0.values().filter_map(|last| last.template.as_ref()).all(|id| pinned.contains(id)));
    }
}

#[test]
fn only_its_owner_can_read_it_and_a_later_version_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("state");
    let store = Store::open(&directory).unwrap();
    store.remove(&SandboxId::random()).unwrap();
    for file in std::fs::read_dir(&directory).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
    }
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let row = "INSERT INTO sandbox VALUES ('sb-x', NULL, '{}', 1, NULL, NULL, NULL, 'i', 'd', 1, 1, NULL, '{}', NULL, 'tcg', \
               'microvm', 0, 'running', NULL, NULL)";
    store.lock().execute(row, []).unwrap();
    assert_eq!(store.all().unwrap().unreadable, ["sb-x"]);
    store.lock().pragma_update(None, "user_version", MIGRATIONS.len() as u32 + 1).unwrap();
    drop(store);
    assert!(matches!(Store::open(&directory), Err(StoreError::Newer { .. })));
    std::fs::write(directory.join(FILE), "something else, and long enough to be looked at").unwrap();
    assert!(matches!(Store::open(&directory), Err(StoreError::Open { .. })));
    assert_eq!(templates_in(&home.path().join("none")), []);
}

#[test]
fn what_an_earlier_hearth_has_written_is_there_after_the_migrations() {
    let home = tempfile::tempdir().unwrap();
    let first = connect(&home.path().join(FILE)).unwrap();
    first.execute_batch(MIGRATIONS[0]).unwrap();
    let rows = "INSERT INTO sandbox VALUES ('sb-0123456789ab', 'web', '{}', 1, NULL, 'pause', 9, 'i', 'd', 1, 128, 64, '{}', NULL, 'tcg', \
                'microvm', 1, 'failed', 'it broke', NULL); \
                INSERT INTO port VALUES ('127.0.0.1:8000', 'sb-0123456789ab', 80, NULL, 'service')";
    first.execute_batch(rows).unwrap();
    first.pragma_update(None, "user_version", 1).unwrap();
    drop(first);
    let store = Store::open(home.path()).unwrap();
    let last = store.all().unwrap().sandboxes.pop().unwrap();
    assert_eq!((last.name.as_ref().map(SandboxName::as_str), last.disk_below), (Some("web"), 1));
    assert_eq!((&last.state, last.ports.len()), (&Kept::Failed("it broke".to_owned()), 1));
    store.stands(&last.id, &Kept::Stopped).unwrap();
    assert_eq!(store.all().unwrap().sandboxes[0].state, Kept::Stopped);
    // Ports still go with their sandbox.
    store.remove(&last.id).unwrap();
    let ports: u32 = store.lock().query_row("SELECT count(*) FROM port", [], |row| row.get(0)).unwrap();
    assert_eq!(ports, 0);
}
