//! Tests of the configuration as a whole: layers, origins, refusals, printing.

use super::*;
use crate::base::error::Kind;
use crate::base::units::{Amount, ByteSize, Span};
use std::path::PathBuf;
use std::time::Duration;

/// A directory with files, and variables.
struct World {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let mut sources = Sources { site_file: Some(dir.path().join("site.toml")), ..Sources::none() };
        sources.variables.insert("HOME".into(), dir.path().display().to_string());
        World { dir, sources }
    }

    fn file(self, name: &str, text: &str) -> World {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: &str) -> World {
        self.sources.variables.insert(name.into(), value.into());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn load(&self, overrides: &[Override]) -> Result<Loaded> {
        Config::load(&self.sources, overrides)
    }

    /// The error, with the directory's name taken out.
    fn error(&self, overrides: &[Override]) -> String {
        let error = self.load(overrides).expect_err("should be refused");
        assert_eq!(error.kind, Kind::Config);
        error.to_string().replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn site_error(text: &str) -> String {
    World::new().file("site.toml", text).error(&[])
}

#[test]
fn defaults_are_complete() {
    let config = Config::defaults();
    assert_eq!(config.scheduler.heartbeat_interval, Span(Duration::from_secs(5)));
    assert_eq!(config.scheduler.idle_timeout, None);
    assert_eq!(config.scheduler.port, Ports { first: 0, last: 0 });
    assert_eq!(config.scheduler.saturation, 1.1);
    assert_eq!(config.worker.nthreads, Nthreads::Auto);
    assert_eq!(config.worker.shell, ["bash", "-eo", "pipefail", "-c"]);
    assert_eq!(config.worker.memory.terminate, Some(Fraction(0.95)));
    assert_eq!(config.worker.restart_backoff.max, Duration::from_secs(60));
    assert!(config.worker.resources.is_empty() && config.launch.is_empty());
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn later_layers_win_key_by_key_and_are_remembered() {
    let world = World::new()
        .file(
            "site.toml",
            "[worker]\nnthreads = 1\ndeath-timeout = '1m'\nlifetime = '1h'\n[worker.memory]\nspill = 0.65",
        )
        .file(
            ".config/hpcdag/config.toml",
            "worker.nthreads = 2\nworker.lifetime = '2h'\nworker.kill-grace = '1s'",
        )
        .file("own.toml", "[worker]\nnthreads = 3\n\nkill-grace = '2s'")
        .variable("HPCDAG_WORKER__NTHREADS", "4")
        .variable("HPCDAG_WORKER__MEMORY__SPILL", "false")
        .variable("HPCDAG_SCHEDULER_FILE", "/not/a/setting")
        .variable("HPCDAG_WORKER__HOST", "");
    let world = {
        let own = world.path("own.toml").display().to_string();
        world.variable("HPCDAG_CONFIG", &own)
    };
    let loaded = world.load(&[Override::new("worker.nthreads", "5")]).unwrap();
    let worker = &loaded.config.worker;
    assert_eq!(worker.nthreads, Nthreads::Count(5.try_into().unwrap()));
    assert_eq!(worker.memory.spill, None);
    let origins = loaded.origins();
    let of = |key: &str| origins.iter().find(|row| row.0 == key).unwrap().2.clone();
    assert_eq!(of("worker.nthreads"), Origin::Flag("--nthreads".into()));
    assert_eq!(of("worker.memory.spill"), Origin::Variable("HPCDAG_WORKER__MEMORY__SPILL".into()));
    assert_eq!(of("worker.kill-grace"), Origin::File(world.path("own.toml"), 4));
    assert_eq!(of("worker.lifetime"), Origin::File(world.path(".config/hpcdag/config.toml"), 2));
    assert_eq!(of("worker.death-timeout"), Origin::File(world.path("site.toml"), 3));
    assert_eq!(of("worker.memory.pause"), Origin::Default);
    assert_eq!(of("worker.host"), Origin::Default);
}

#[test]
fn the_users_file_follows_xdg() {
    let world = World::new().file("xdg/hpcdag/config.toml", "log.level = 'debug'");
    let xdg = world.path("xdg").display().to_string();
    let world = world.variable("XDG_CONFIG_HOME", &xdg);
    assert_eq!(world.load(&[]).unwrap().config.log.level, "debug");
    let world = world.variable("XDG_CONFIG_HOME", "relative");
    assert_eq!(world.sources.user_file(), Some(world.path(".config/hpcdag/config.toml")));
    assert_eq!(Sources::none().user_file(), None);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    let error = site_error("[worker]\n# half\nnthread = 3");
    assert!(error.starts_with("site.toml:3: there is no setting 'worker.nthread'"), "{error}");
    assert!(error.contains("did you mean 'nthreads'?"), "{error}");
    let error = site_error("[wroker]\nnthreads = 3");
    assert!(error.starts_with("site.toml:1:") && error.contains("'worker'"), "{error}");
    let error = site_error("nthreads = 3");
    assert!(error.contains("belongs in [worker]"), "{error}");
    let error = site_error("[worker.memory]\nxyzzy = 3");
    assert!(error.contains("config show"), "{error}");
    let error = World::new().variable("HPCDAG_WORKER__NTHREDS", "3").error(&[]);
    assert!(error.starts_with("$HPCDAG_WORKER__NTHREDS: ") && error.contains("'nthreads'"), "{error}");
    let error = World::new().error(&[Override::new("log.levle", "info").flag("--set")]);
    assert!(error.starts_with("--set: ") && error.contains("'level'"), "{error}");
}

#[test]
fn wrong_values_say_where_and_what_was_expected() {
    for (text, parts) in [
        (
            "[worker]\nnthreads = 'many'",
            &["site.toml:2: 'worker.nthreads'", "\"auto\"", "found \"many\""][..],
        ),
        ("worker.nthreads = 0", &["from 1", "found 0"]),
        ("worker.nanny = 'yes'", &["true or false"]),
        ("worker = 3", &["expected a table", "found 3"]),
        ("worker.host = {}", &["found a table"]),
        ("worker.memory-limit = 8", &["site.toml:1", "no unit", "8G"]),
        ("worker.memory-limit = '8'", &["no unit"]),
        ("worker.memory-limit = '0G'", &["none"]),
        ("worker.memory-limit = 1.5", &["fraction"]),
        ("worker.memory.target = 60", &["fraction", "found 60", "false"]),
        ("worker.death-timeout = 30", &["no unit", "30s"]),
        ("worker.death-timeout = false", &["a duration"]),
        ("worker.resources.gpus = 'two'", &["an amount"]),
        ("worker.resources.gpus.a = 2", &["an amount", "a table"]),
        ("worker.restart-backoff = '60s..1s'", &["longer than the longest"]),
        ("scheduler.port = '9-5'", &["backwards"]),
        ("scheduler.port = 70000", &["a port"]),
        ("scheduler.interface = []", &["empty"]),
        ("scheduler.interface = [1]", &["a list of texts"]),
        ("scheduler.saturation = -1", &["above 0"]),
        ("scheduler.allowed-failures = 99999999999999999999999", &["whole number"]),
        ("worker.local-directory = '/x/{pid}'", &["{job-id}"]),
        ("log.format = 'xml'", &["\"json\""]),
        ("log.level = 'info,hpcdag=loud'", &["'loud' is not a level"]),
        ("launch = 3", &["a table"]),
        ("[log]\nlevel = info", &["site.toml:2:"]),
        ("[log]\n[log]", &["site.toml:2:"]),
    ] {
        let error = site_error(text);
        for part in parts {
            assert!(error.contains(part), "{text}: no {part:?} in: {error}");
        }
        assert!(!error.contains('\u{0}') && error.contains("site.toml:"), "{error}");
    }
}

#[test]
fn contradictions_name_both_sides() {
    let error = site_error("[worker.memory]\ntarget = 0.75");
    assert!(error.contains("worker.memory.target = 0.75 (site.toml:2)"), "{error}");
    assert!(error.contains("worker.memory.spill = 0.7 (default)"), "{error}");
    let error = site_error("[worker.memory]\ntarget = 0.9\nspill = false");
    assert!(error.contains("worker.memory.pause"), "what is off is skipped: {error}");
    let all_off = "[worker.memory]\ntarget = 1.0\nspill = false\npause = false\nterminate = false";
    assert!(World::new().file("site.toml", all_off).load(&[]).is_ok());
    let error = site_error("scheduler.worker-loss-timeout = '8s'");
    assert!(error.contains("heartbeat-interval = \"5s\""), "{error}");
    let error = site_error("worker.lifetime = '5m'\nworker.lifetime-stagger = '10m'");
    assert!(error.contains("site.toml:1") && error.contains("site.toml:2"), "{error}");
    assert!(site_error("scheduler.heartbeat-interval = '0s'").contains("longer than zero"));
    assert!(site_error("scheduler.allowed-failures = 0").contains("at least 1"));
}

#[test]
fn text_is_read_as_the_setting_needs() {
    let set = |key: &str, value: &str| World::new().load(&[Override::new(key, value)]).unwrap().config;
    assert_eq!(set("scheduler.host", "1234").scheduler.host.as_deref(), Some("1234"));
    assert_eq!(set("scheduler.host", "false").scheduler.host, None);
    assert_eq!(set("scheduler.interface", "hsn0,ib0, auto").scheduler.interface, ["hsn0", "ib0", "auto"]);
    assert_eq!(set("worker.shell", "['sh', '-c']").worker.shell, ["sh", "-c"]);
    assert_eq!(set("scheduler.port", "5-9").scheduler.port, Ports { first: 5, last: 9 });
    assert_eq!(set("scheduler.saturation", "inf").scheduler.saturation, f64::INFINITY);
    assert_eq!(set("worker.memory-limit", "2G").worker.memory_limit, MemoryLimit::Size(ByteSize(1 << 31)));
    assert_eq!(set("worker.memory-limit", "0.5").worker.memory_limit, MemoryLimit::Fraction(Fraction(0.5)));
    assert_eq!(set("worker.memory-limit", "none").worker.memory_limit, MemoryLimit::None);
    // TOML reads this as a time of day, the setting as minutes and seconds.
    assert_eq!(set("worker.lifetime", "30:00").worker.lifetime, Some(Span(Duration::from_secs(1800))));
    let error = World::new().error(&[Override::new("worker.nthreads", "many")]);
    assert!(error.contains("--nthreads") && error.contains("found 'many'"), "{error}");
    let error = World::new().error(&[Override::new("worker.memory-limit", "8")]);
    assert!(error.contains("8G"), "{error}");
}

#[test]
fn resources_merge_by_name() {
    let world = World::new().file("site.toml", "[worker.resources]\ngpus = 4\nfpga = 1\nlicence = 0.5");
    let flags = [
        Override::new("worker.resources", "gpus=2,tapes=3"),
        Override::new("worker.resources.fpga", "false"),
    ];
    let resources = world.load(&flags).unwrap().config.worker.resources;
    let pairs: Vec<_> = resources.iter().map(|(name, amount)| (name.as_str(), amount.0)).collect();
    assert_eq!(pairs, [("gpus", 20_000), ("licence", 5_000), ("tapes", 30_000)]);
    assert_eq!(resources["gpus"], Amount(20_000));
    let error = world.error(&[Override::new("worker.resources", "gpus")]);
    assert!(error.contains("NAME=AMOUNT"), "{error}");
}

#[test]
fn launch_is_free_form() {
    let world = World::new()
        .file("site.toml", "[launch]\nslurm.partition = 'main'\nslurm.lines = ['a', 'b']\npbs = 'x'")
        .file(".config/hpcdag/config.toml", "[launch.pbs]\nqueue = 'long'")
        .variable("HPCDAG_LAUNCH__SLURM__PARTITION", "debug");
    let launch = world.load(&[]).unwrap().config.launch;
    let expected = "slurm = { partition = 'debug', lines = ['a', 'b'] }\npbs = { queue = 'long' }";
    assert_eq!(launch, expected.parse::<toml::Table>().unwrap());
}

#[test]
fn a_named_file_must_exist_and_others_need_not() {
    assert!(World::new().load(&[]).is_ok());
    let world = World::new().variable("HPCDAG_CONFIG", "/nowhere/x.toml");
    assert!(world.error(&[]).contains("/nowhere/x.toml, which does not exist"));
    let world = World::new().file("site.toml/in-the-way", "");
    assert!(world.error(&[]).contains("cannot read the configuration"));
}

#[test]
fn what_is_shown_can_be_read_again() {
    let text = "[worker]\nmemory-limit = '2G'\nresources = { 'odd name' = 2 }\n\
                [launch]\na.x = 1\nb = 2\nc.x = 3\nd.e.f = [4, { g = 5 }]\nh = \"two\\nlines # 'here'\"";
    let world = World::new().file("site.toml", text);
    let loaded = world.load(&[Override::new("scheduler.saturation", "inf")]).unwrap();
    for with_origin in [false, true] {
        let again = World::new().file("site.toml", &loaded.render(with_origin)).load(&[]).unwrap();
        assert_eq!(again.config, loaded.config);
    }
    let shown = loaded.render(true);
    let line = shown.lines().find(|line| line.starts_with("memory-limit")).unwrap();
    assert!(line.ends_with("site.toml:2") && line.contains("= \"2G\" "), "{line}");
    assert!(shown.contains("\n[worker.memory]\n"), "{shown}");
    let json = loaded.to_json(true);
    assert_eq!(json["scheduler.saturation"], serde_json::json!({ "value": "inf", "origin": "--saturation" }));
    assert_eq!(loaded.to_json(false)["worker.nanny"], serde_json::json!(true));
    assert_eq!(loaded.origins().len(), json.as_object().unwrap().len());
}

#[test]
fn the_site_may_lock_settings() {
    let site = "locked = ['scheduler.port', 'launch.slurm.max-pending', 'worker.memory', 'log.level']\n\
                [scheduler]\nport = '40000-40100'\n[launch.slurm]\nmax-pending = 4";
    let world = || World::new().file("site.toml", site);
    let user = ".config/hpcdag/config.toml";
    let port = |value: &str| [Override::new("scheduler.port", value)];
    assert_eq!(
        world().error(&port("1234")).lines().next().unwrap(),
        "--port: 'scheduler.port' is locked by site.toml:1"
    );
    assert!(world().error(&port("1234")).contains("your site has it set to \"40000-40100\""));
    world().load(&port("40000-40100")).unwrap();
    let error = world().file(user, "[launch.slurm]\nmax-pending = 9").error(&[]);
    assert!(
        error.starts_with(&format!("{user}:2: 'launch.slurm.max-pending' is locked by site.toml:1")),
        "{error}"
    );
    // What would replace the table, and what is inside of a locked one.
    let error = world().file(user, "[launch]\nslurm = 3").error(&[]);
    assert!(error.contains("'launch.slurm' is locked"), "{error}");
    let error = world().variable("HPCDAG_WORKER__MEMORY__SPILL", "0.9").error(&[]);
    assert!(error.starts_with("$HPCDAG_WORKER__MEMORY__SPILL: 'worker.memory.spill' is locked"), "{error}");
    assert!(error.contains("set to 0.7"), "the default stays: {error}");

    let loaded = world().file(user, "[scheduler]\nhost = 'h'").load(&[]).unwrap();
    let shown = loaded.render(true);
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("port").contains("site.toml:3, locked by ") && !line("host").contains("locked"));
    assert!(line("level").contains("# default, locked by "), "{}", line("level"));
    assert_eq!(loaded.to_json(true)["scheduler.host"]["locked"], serde_json::Value::Null);
    assert!(loaded.to_json(true)["scheduler.port"]["locked"].as_str().unwrap().ends_with("site.toml:1"));

    assert!(site_error("locked = ['scheduler.prot']").contains("no setting 'scheduler.prot' to lock"));
    assert!(site_error("locked = 'scheduler.port'").contains("expected a list"));
    let error = World::new().file(user, "locked = ['scheduler.port']").error(&[]);
    assert!(error.contains("only the site's own file may lock settings"), "{error}");
}

#[test]
fn backoff_doubles_up_to_its_end() {
    let backoff = Config::defaults().worker.restart_backoff;
    let delays: Vec<u64> = [1, 2, 3, 7, 40, u32::MAX].iter().map(|n| backoff.delay(*n).as_secs()).collect();
    assert_eq!(delays, [1, 2, 4, 60, 60, 60]);
}
