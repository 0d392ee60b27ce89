//! A report: the dashboard's pages and what they show in one file that opens from disk. Owns how pages and
//! data become one text that asks nobody for anything; the pages are `assets`, the data is JSON.

use serde_json::{Value, json};
use std::fmt::Write;

/// Rectangles that a report has at most: so many are drawn, and can be mailed.
pub const SPANS_MAX: usize = 40_000;

/// What a report may do: run its own scripts. Nothing leaves, whatever a script would like.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src \
                      data:; base-uri 'none'; form-action 'none'";

/// Makes one page of the file `index.html` among `assets` (names and texts), of those that it names, and of
/// the data. Returns `None` without an `index.html`.
pub fn html(assets: &[(&str, &str)], data: &Value) -> Option<String> {
    let file = |name: &str| assets.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let mut rest = file("index.html")?;
    let mut page = String::with_capacity(64 << 10);
    let mut told = false;
    while let Some(at) = rest.find('<') {
        page.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find('>').map_or(rest.len(), |end| end + 1);
        let (tag, after) = rest.split_at(end);
        rest = after;
        let link = attribute(tag, "href").filter(|_| tag.starts_with("<link"));
        let script = attribute(tag, "src").filter(|_| tag.starts_with("<script"));
        match (link, script) {
            _ if tag.starts_with("<head") => {
                page.push_str(tag);
                // Writing to a text does not fail.
                let _ = write!(page, "\n<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">");
            }
            (Some(name), _) if name.ends_with(".css") => {
                let text = file(name).unwrap_or_default().replace("</", "<\\/");
                let _ = write!(page, "<style>\n{text}</style>");
            }
            (Some(name), _) if name.ends_with(".svg") => {
                let text = file(name).unwrap_or_default();
                let _ = write!(page, "<link rel=\"icon\" href=\"data:image/svg+xml,{}\">", percent(text));
            }
            // Whatever else it links to is not there from disk.
            (Some(_), _) => {}
            (None, Some(name)) => {
                if !std::mem::replace(&mut told, true) {
                    let _ =
                        write!(page, "<script>\nwindow.HPCDAG_DATA = {};\n</script>\n", script_json(data));
                }
                let text = script_text(file(name).unwrap_or_default());
                let _ = write!(page, "<script>\n{text}");
            }
            _ => page.push_str(tag),
        }
    }
    page.push_str(rest);
    Some(page)
}

/// The value of an attribute of a tag.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// JSON that can stand in a script: no text of it ends the script, or a line.
fn script_json(value: &Value) -> String {
    let text = value.to_string();
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // These stand only inside of strings.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(safe, "\\u{:04x}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}

/// A script that does not end early. Both sequences stand only in its literals, where this means the same.
fn script_text(text: &str) -> String {
    text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
}

fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Leaves out the shortest rectangles if there are more than `max`: those hardly are seen.
pub fn thin(spans: &mut Value, max: usize) {
    let seconds = spans["seconds"].as_array().map(Vec::as_slice).unwrap_or_default();
    let n = seconds.len();
    if n <= max {
        return;
    }
    // Failures stay, however short.
    let failed = spans["kinds"].as_array().into_iter().flatten().position(|k| k == "failed");
    let is_failed = |k: usize| failed.is_some() && spans["kind"][k].as_u64().map(|n| n as usize) == failed;
    let mut order: Vec<(bool, f64, usize)> =
        (0..n).map(|k| (is_failed(k), seconds[k].as_f64().unwrap_or(0.0), k)).collect();
    order.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let mut keep = vec![false; n];
    order[..max].iter().for_each(|(.., k)| keep[*k] = true);
    let lists = ["workers", "groups", "kinds"];
    for (name, column) in spans.as_object_mut().into_iter().flatten() {
        if let Some(values) =
            column.as_array_mut().filter(|v| v.len() == n && !lists.contains(&name.as_str()))
        {
            let mut k = 0;
            values.retain(|_| {
                k += 1;
                keep[k - 1]
            });
        }
    }
    let before = spans["left-out"].as_u64().unwrap_or(0);
    spans["left-out"] = json!(before + (n - max) as u64);
}

/// Keeps of the series only what is between two times.
pub fn clip(series: &mut Value, from: f64, to: f64) {
    clip_columns(series, from, to);
    for (_, worker) in series["workers"].as_object_mut().into_iter().flatten() {
        clip_columns(worker, from, to);
    }
}

/// Of a table with a column of times.
fn clip_columns(table: &mut Value, from: f64, to: f64) {
    let times = table["time"].as_array().map(Vec::as_slice).unwrap_or_default();
    let keep: Vec<bool> =
        times.iter().map(|t| t.as_f64().is_some_and(|t| (from..=to).contains(&t))).collect();
    let cut = |column: &mut Value| {
        if let Some(values) = column.as_array_mut().filter(|v| v.len() == keep.len()) {
            let mut k = 0;
            values.retain(|_| {
                k += 1;
                keep[k - 1]
            });
        }
    };
    for (_, column) in table.as_object_mut().into_iter().flatten() {
        match column {
            Value::Array(_) => cut(column),
            // The sums are a table of their own below the times.
            Value::Object(inner) => inner.values_mut().for_each(cut),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "<!doctype html><html><head>\n<link rel=\"icon\" href=\"i.svg\">\
        <link rel=\"stylesheet\" href=\"a.css\"></head>\n<body><p>a &lt; b</p>\n\
        <script src=\"a.js\"></script>\
        <script src=\"b.js\"></script></body></html>\n";

    fn assets() -> Vec<(&'static str, &'static str)> {
        vec![
            ("index.html", INDEX),
            ("a.css", "b { color: red }"),
            ("a.js", "const a = '</script>';"),
            ("b.js", "go();"),
            ("i.svg", "<svg/>"),
        ]
    }

    #[test]
    fn a_report_is_one_file() {
        let data = json!({ "overview": { "hold": "x" } });
        let page = html(&assets(), &data).unwrap();
        assert!(!page.contains("src=") && !page.contains("href=\"a"), "{page}");
        assert!(page.contains("<style>\nb { color: red }</style>"), "{page}");
        assert!(page.contains("data:image/svg+xml,%3Csvg%2F%3E"), "{page}");
        assert!(page.contains("default-src 'none'"), "{page}");
        let order =
            ["HPCDAG_DATA = {\"overview\"", "const a = '<\\/script>';", "go();"].map(|w| page.find(w));
        assert!(order.is_sorted() && order[0].is_some(), "{order:?} {page}");
        assert_eq!(page.matches("HPCDAG_DATA").count(), 1);
        assert_eq!(page.matches("</script>").count(), 3);
        assert!(page.contains("<p>a &lt; b</p>") && page.ends_with("</html>\n"));
        assert_eq!(html(&[], &data), None);
    }

    #[test]
    fn the_dashboards_own_pages_become_one_file() {
        let assets: Vec<_> = crate::dashboard::assets::ASSETS.iter().map(|a| (a.name, a.text)).collect();
        let page = html(&assets, &json!({})).unwrap();
        let index = assets[0].1;
        assert_eq!(page.matches("<script>").count(), index.matches("<script").count() + 1);
        for tag in ["<script src", "<link rel=\"stylesheet\"", "href=\"icon"] {
            assert!(index.contains(tag) || tag.starts_with("href"), "{tag}");
            assert!(!page.contains(tag), "{tag}");
        }
        for (name, text) in assets.iter().filter(|(name, _)| name.ends_with(".js")) {
            assert!(index.contains(&format!("src=\"{name}\"")), "{name} is not loaded");
            assert!(page.contains(&script_text(text)), "{name} is not in the report");
        }
    }

    #[test]
    fn no_name_ends_a_script() {
        let hostile = "</script><script>alert(1)</script><!--\u{2028}&\u{2029}";
        let data = json!({ "tasks": [{ "key": hostile }] });
        let page = html(&assets(), &data).unwrap();
        assert_eq!(page.matches("</script>").count(), 3);
        assert!(!page.contains("<!--") && !page.contains('\u{2028}'));
        let (_, rest) = page.split_once("HPCDAG_DATA = ").unwrap();
        let json = rest.split_once(";\n").unwrap().0;
        assert_eq!(serde_json::from_str::<Value>(json).unwrap(), data, "and it is the same data");
    }

    #[test]
    fn the_shortest_rectangles_are_left_out() {
        let mut spans = json!({ "left-out": 1, "workers": ["a", "b", "c", "d"],
            "kinds": ["compute", "failed"],
            "kind": [0, 0, 1, 0], "seconds": [5.0, 0.1, 0.01, 7.0], "start": [1.0, 2.0, 3.0, 4.0] });
        thin(&mut spans, 3);
        assert_eq!(spans["start"], json!([1.0, 3.0, 4.0]));
        assert_eq!((&spans["left-out"], spans["workers"].as_array().unwrap().len()), (&json!(2), 4));
        thin(&mut Value::Null, 0);
    }

    #[test]
    fn series_are_cut_to_the_run() {
        let mut series = json!({ "time": [1.0, 2.0, 3.0], "total": { "cpu": [1, 2, 3], "odd": [1] },
            "workers": { "w": { "time": [0.5, 2.5], "cpu": [7, 8] } } });
        clip(&mut series, 1.5, 2.5);
        assert_eq!(
            series,
            json!({ "time": [2.0], "total": { "cpu": [2], "odd": [1] },
            "workers": { "w": { "time": [2.5], "cpu": [8] } } })
        );
        clip(&mut Value::Null, 0.0, 1.0);
    }
}
