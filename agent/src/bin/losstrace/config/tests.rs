use super::*;

fn try_settings(file: &str, environment: &[(&str, &str)], common: Common) -> Result<Settings, Vec<String>> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    settle(file.parse().unwrap(), &environment.collect(), &common)
        .map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

fn settings(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Settings {
    let set = set.iter().map(|set| (*set).to_owned()).collect();
    try_settings(file, environment, Common { set, ..Common::default() }).unwrap()
}

#[test]
fn without_anything_it_runs_on_loopback_below_data() {
    let settings = settings("", &[], &[]);
    assert_eq!(settings.listen, Listen::default());
    assert!(settings.listen.name_server.ip().is_loopback());
    assert_eq!(settings.data_dir, Path::new("data"));
    assert_eq!(settings.agent.data_dir, Path::new("data/agent"));
    assert_eq!(settings.agent.http_listen, settings.listen.agent_http);
    assert_eq!(settings.otlp.endpoint, None);
    assert_eq!(settings.log.level, "info");
}

#[test]
fn flags_win_over_environment_wins_over_file() {
    let file =
        "data_dir = 'a'\n[broker]\nretry_max = 1\nbroker_name = 'a'\ncluster = 'a'\n[log]\nformat = 'json'\n";
    let environment = [
        ("LOSSTRACE_BROKER__RETRY_MAX", "2"),
        ("LOSSTRACE_BROKER__BROKER_NAME", "b"),
        ("LOSSTRACE_AGENT__CHECKPOINT__FACTS", "5000"),
        ("LOSSTRACE_DATA_DIR", "not read here: clap does"),
        ("LOSSTRACE_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("PATH", "/bin"),
    ];
    let both = settings(file, &environment, &["broker.retry_max=3"]);
    assert_eq!((both.broker.retry_max, both.broker.broker_name.as_str()), (3, "b"));
    assert_eq!((both.broker.cluster.as_str(), both.log.format), ("a", LogFormat::Json));
    assert_eq!(both.agent.checkpoint.facts, 5000);
    assert_eq!(both.data_dir, Path::new("a"));
    let flag = Common { data_dir: Some("f".into()), ..Common::default() };
    let flagged = try_settings(file, &environment, flag).unwrap();
    assert_eq!(
        (flagged.data_dir.as_path(), flagged.agent.data_dir.as_path()),
        (Path::new("f"), Path::new("f/agent"))
    );
}

#[test]
fn texts_lists_and_numbers_can_be_given_as_words() {
    let settings = settings(
        "",
        &[("LOSSTRACE_BROKER__DELAY_LEVELS_MS", "[1, 2]"), ("LOSSTRACE_LISTEN__GRPC", "127.0.0.1:1")],
        &["broker.broker_name=\"123\"", "log.level=info,agent=debug"],
    );
    assert_eq!(settings.broker.delay_levels_ms, [1, 2]);
    assert_eq!(settings.listen.grpc.port(), 1);
    assert_eq!(settings.broker.broker_name, "123");
    assert_eq!(settings.log.level, "info,agent=debug");
}

#[test]
fn every_problem_is_told_at_once_with_its_key() {
    let file = "
        colour = 'red'
        [listen]
        grpc = 'here'
        feed = '127.0.0.1:9876'
        htpp = '127.0.0.1:1'
        [broker]
        retry_max = -1
        flush_disk_type = 'SOMETIMES'
        default_queues = 0
        [agent]
        http_listen = '127.0.0.1:1'
        reader = 'a b'
        [agent.checkpoint]
        fact = 3
        interval_ms = 'often'
        [log]
        format = 'xml'
        level = 'loud'
        [otlp]
        endpoint = 'collector:4317'
    ";
    let common = Common { set: vec!["x".into(), "broker..a=1".into()], ..Common::default() };
    let environment = [("LOSSTRACE_BROKER__RETRY__MAX", "1"), ("LOSSTRACE_SPEED__MAX", "1")];
    let told = try_settings(file, &environment, common).unwrap_err();
    let keys: Vec<&str> = told.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "--set broker..a",
            "--set x",
            "agent.checkpoint.fact",
            "agent.checkpoint.interval_ms",
            "agent.http_listen",
            "broker.flush_disk_type",
            "broker.retry.max",
            "broker.retry_max",
            "colour",
            "listen.grpc",
            "listen.htpp",
            "log.format",
            "otlp.endpoint",
            "speed",
        ],
        "{told:#?}"
    );
    assert!(told.iter().all(|problem| !problem.contains('\n')), "{told:#?}");

    // what only shows when the types are right
    let file = "
        [listen]
        feed = '127.0.0.1:9876'
        [broker]
        default_queues = 0
        [agent]
        reader = 'a b'
        [log]
        level = 'loud'
    ";
    let told = try_settings(file, &[], Common::default()).unwrap_err();
    let keys: Vec<&str> = told.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
    assert_eq!(keys, ["agent.reader", "broker.default_queues", "listen.feed", "log.level"], "{told:#?}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.toml");
    assert!(read(&missing).unwrap_err().to_string().starts_with(&missing.display().to_string()));
    let broken = folder.path().join("broken.toml");
    std::fs::write(&broken, "[listen\n").unwrap();
    let told = read(&broken).unwrap_err().to_string();
    assert!(told.contains("broken.toml") && told.contains("line 1"), "{told}");
    let huge = folder.path().join("huge.toml");
    std::fs::write(&huge, " ".repeat(2 << 20)).unwrap();
    assert!(read(&huge).unwrap_err().text.contains("at most"));
}

proptest::proptest! {
    #[test]
    fn no_setting_panics(key in "[a-z._]{0,20}", value in ".{0,30}", env in "[A-Z_]{0,20}") {
        let set = vec![format!("{key}={value}"), value.clone()];
        drop(try_settings("", &[(&format!("LOSSTRACE_{env}"), &value)], Common { set, ..Common::default() }));
    }
}
