//! `submit -- CMD` and its relatives: order, files, lists of what failed, exit codes.

use crate::site::{Site, files_below};

#[test]
fn lines_come_back_in_their_order() {
    let site = Site::new();
    site.write("items.txt", "0.3\n0.2 b\n\n0.01\n0\n");
    let ended = site.run(&[
        "submit",
        "--local",
        "-j",
        "4",
        "--each-line",
        "items.txt",
        "--",
        "sh",
        "-c",
        "set -- {item}; sleep $1; printf \"$*\"",
    ]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "0.3\n0.2 b\n0.01\n0\n"), "{ended:?}");
}

#[test]
fn what_failed_can_be_run_again() {
    let site = Site::new();
    let script = "test ! -e no-{item} && echo {item}";
    for name in ["no-3", "no-7"] {
        site.write(name, "");
    }
    let ended = site.run(&["submit", "--local", "--array", "1-9:2", "--", "sh", "-c", script]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), "1\n5\n9\n"), "{ended:?}");
    let files = files_below(&site.path(""));
    let list = files.iter().find(|f| f.ends_with(".failed")).expect("a list");
    assert_eq!(site.read(list), "3\n7\n");
    assert!(ended.stderr.contains(list.as_str()), "{ended:?}");
    std::fs::remove_file(site.path("no-3")).expect("there");
    std::fs::remove_file(site.path("no-7")).expect("there");
    let again = site.ok(&["submit", "--local", "--each-line", list, "--", "sh", "-c", script]);
    assert_eq!(again, "3\n7\n");
}

#[test]
fn outputs_go_to_files_or_nowhere() {
    let site = Site::new();
    site.ok(&[
        "submit",
        "--local",
        "--array",
        "0-30:10",
        "-o",
        "out/{index}-{item}.txt",
        "--",
        "echo",
        "{item}",
    ]);
    assert_eq!(files_below(&site.path("out")), ["0-0.txt", "1-10.txt", "2-20.txt", "3-30.txt"]);
    assert_eq!(site.read("out/2-20.txt"), "20\n");
    let nowhere = site.ok(&["submit", "--local", "--array", "1-3", "--stdout", "none", "--", "echo", "x"]);
    assert_eq!(nowhere, "");
    site.ok(&["submit", "--local", "--array", "1-3", "--stdout", "dir", "--", "echo", "{item}"]);
    assert_eq!(files_below(&site.path("dir")), ["0.txt", "1.txt", "2.txt"]);
}

#[test]
fn one_command_is_quiet_and_whole() {
    let site = Site::new();
    let ended = site.run(&["submit", "--local", "--", "printf", "a\\nb"]);
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "a\nb", ""));
    let large = site.ok(&["submit", "--local", "--", "seq", "1", "400000"]);
    let expected: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert!(large == expected, "{} bytes of {}", large.len(), expected.len());
    let missing = site.run(&["submit", "--local", "--", "no-such-program"]);
    assert_eq!(missing.code, Some(3), "{missing:?}");
    assert!(missing.stderr.contains("could not be started"), "{missing:?}");
}

#[test]
fn a_million_elements_are_one_message() {
    let site = Site::new();
    site.write("g.toml", "version = 1\n[task.a]\nfor-each = { range = [0, 1000000] }\nnative = \"noop\"\n");
    let report = site.ok(&["submit", "g.toml", "--check"]);
    assert!(report.contains("1000000 tasks") || report.contains("1,000,000 tasks"), "{report}");
    let json = site.json(&["submit", "g.toml", "--check", "--json"]);
    assert_eq!(json["tasks"], 1_000_000);
}

#[test]
fn hooks_run_at_the_end() {
    let site = Site::new();
    site.write(
        "g.toml",
        "version = 1\nparams = { who = \"me\" }\n[task.a]\nshell = \"exit {who}\"\n[on]\n\
         success = \"echo good > said\"\nfailure = \"echo {who} $HPCDAG_FAILED > said\"\n",
    );
    assert_eq!(site.run(&["submit", "g.toml", "--local", "--set", "who=0"]).code, Some(0));
    assert_eq!(site.read("said"), "good\n");
    assert_eq!(site.run(&["submit", "g.toml", "--local", "--set", "who=5"]).code, Some(3));
    assert_eq!(site.read("said"), "5 1\n");
}
