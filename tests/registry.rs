//! Holds `wire-spec/` against the implementation, in both directions: the registries against the crate's tables, and the
//! structures in `*.tls` against their declarations in `src/wire/`. What is only on one side fails.

use std::{collections::BTreeMap, fmt::Debug, fs, path::Path};

use bennu::{
    base::{Status, limits},
    wire::{
        self, Method,
        label::{HpkeLabel, KeyLabel, SignatureLabel},
        method, padding, registry,
    },
};

#[path = "presentation/mod.rs"]
#[allow(dead_code, reason = "values are for other tests")]
mod presentation;

use presentation::{Field, Grammar, Type};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the first table below a heading of registries.md, with so many of their cells.
fn table(heading: &str, cells: usize) -> Vec<Vec<String>> {
    let text = read("wire-spec/registries.md");
    let below =
        text.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading || !line.starts_with('#'));
    let rows = below.skip(1).take_while(|line| !line.starts_with('#'));
    let rows = rows.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    let cell = |cell: &str| cell.trim().to_owned();
    let rows: Vec<Vec<String>> = rows.map(|row| row.split('|').skip(1).take(cells).map(cell).collect()).collect();
    assert!(!rows.is_empty(), "wire-spec/registries.md has no table below `{heading}`");
    rows
}

/// Compares rows, and says which differ.
fn same(heading: &str, specified: &[Vec<String>], implemented: &[Vec<String>]) {
    let mut differences = String::new();
    for row in specified.iter().filter(|row| !implemented.contains(row)) {
        differences += &format!("\n  only in wire-spec: {}", row.join(" | "));
    }
    for row in implemented.iter().filter(|row| !specified.contains(row)) {
        differences += &format!("\n  only in the code:  {}", row.join(" | "));
    }
    assert!(differences.is_empty(), "{heading}:{differences}");
    assert_eq!(specified, implemented, "{heading}: the rows are in another order, or one is there twice");
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn named(value: impl Debug) -> String {
    snake(&format!("{value:?}"))
}

#[test]
fn methods() {
    let row = |method: &Method| {
        let (request, response) = method.structs();
        vec![
            format!("0x{:04x}", *method as u16),
            method.name().to_owned(),
            named(method.proof()),
            named(method.credit()),
            named(method.shape()),
            named(method.repeat()),
            method.max_request().to_string(),
            request.to_owned(),
            response.to_owned(),
        ]
    };
    same("Methods", &table("Methods", 9), &Method::ALL.iter().map(row).collect::<Vec<_>>());
}

/// What carries an idempotency key is known again by it, but where there is nothing left that could know it.
#[test]
fn repeats_are_known_by_their_key_where_there_is_one() {
    let grammar = Grammar::of_the_specification();
    for method in Method::ALL {
        let has_key = grammar.parts_of(method.structs().0).contains(&"IdempotencyKey");
        let is_keyed = method.repeat() == method::Repeat::Keyed;
        assert_eq!(has_key, is_keyed || *method == Method::DsDeleteGroup, "{}", method.name());
    }
}

#[test]
fn statuses() {
    let row =
        |status: &Status| vec![(*status as u16).to_string(), status.name().to_owned(), status.sentence().to_owned()];
    same("Status values", &table("Status values", 3), &Status::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn refusals_by_method_name_methods_and_statuses() {
    let methods: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
    let statuses: Vec<_> = Status::ALL.iter().map(|status| status.name()).collect();
    let mut named = Vec::new();
    for row in table("By method", 2) {
        let (of, refused) = (row[0].split(", "), row[1].split(", ").filter(|name| !name.starts_with("where ")));
        for method in of {
            assert!(methods.contains(&method), "{method}");
            assert!(!named.contains(&method.to_owned()), "{method} is there twice");
            named.push(method.to_owned());
        }
        refused.for_each(|status| assert!(statuses.contains(&status), "{status}"));
    }
}

#[cfg(feature = "net")]
#[test]
fn close_codes() {
    use bennu::transport::codes;
    let row = |code: &bennu::transport::Code| {
        vec![format!("0x{:02x}", code.0), code.name().to_owned(), code.sentence().to_owned()]
    };
    let specified: Vec<Vec<String>> = table("Close codes", 4)
        .into_iter()
        .map(|row| row.into_iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, cell)| cell).collect())
        .collect();
    same("Close codes", &specified, &codes::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn labels() {
    let compare = |heading: &str, implemented: Vec<&str>| {
        let specified: Vec<_> = table(heading, 1)
            .into_iter()
            .map(|row| row.iter().map(|label| format!("Bennu 1.0 {label}")).collect())
            .collect();
        same(heading, &specified, &implemented.iter().map(|label| vec![(*label).to_owned()]).collect::<Vec<_>>());
    };
    compare("Signatures", SignatureLabel::ALL.iter().map(|label| label.as_str()).collect());
    compare("Derived keys", KeyLabel::ALL.iter().map(|label| label.as_str()).collect());
    compare("HPKE", HpkeLabel::ALL.iter().map(|label| label.as_str()).collect());
}

#[test]
fn code_points_and_limits() {
    let rows = |pairs: &[(&str, String)]| -> Vec<Vec<String>> {
        pairs.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect()
    };
    let hex = |value: u16| format!("0x{value:04X}");
    let points = [
        ("version", hex(wire::VERSION)),
        ("ciphersuite", hex(wire::credential::CIPHERSUITE)),
        ("leaf_credential", hex(registry::LEAF_CREDENTIAL)),
        ("roles_extension", hex(registry::ROLES_EXTENSION)),
        ("group_data_extension", hex(registry::GROUP_DATA_EXTENSION)),
        ("queue_config_extension", hex(registry::QUEUE_CONFIG_EXTENSION)),
        ("token_type", hex(registry::TOKEN_TYPE)),
    ];
    same("Code points", &table("Code points", 2), &rows(&points));

    let limits = [
        ("default_port", limits::DEFAULT_PORT.to_string()),
        ("envelope", method::ENVELOPE.to_string()),
        ("max_response", limits::MAX_RESPONSE.to_string()),
        ("max_bound_keys", limits::MAX_BOUND_KEYS.to_string()),
        ("max_dequeue", limits::MAX_DEQUEUE.to_string()),
        ("shared_body_size", limits::SHARED_BODY_SIZE.to_string()),
        ("shared_body_queues", limits::SHARED_BODY_QUEUES.to_string()),
        ("message_floor", padding::MESSAGE_FLOOR.to_string()),
        ("group_info_extensions", limits::MAX_GROUP_INFO_EXTENSIONS.to_string()),
        ("max_domain", bennu::base::id::MAX_DOMAIN.to_string()),
        ("bind_keys", limits::MAX_BIND_KEYS.to_string()),
        ("connection_packages", limits::MAX_CONNECTION_PACKAGES.to_string()),
        ("profile", limits::MAX_PROFILE.to_string()),
        ("renewed_credentials", limits::MAX_RENEWED_CREDENTIALS.to_string()),
        ("queuing_clients", limits::MAX_QUEUING_CLIENTS.to_string()),
        ("replaced_keys", limits::MAX_REPLACED_KEYS.to_string()),
        ("blocked_groups", limits::MAX_BLOCKED_GROUPS.to_string()),
        ("key_packages", limits::MAX_KEY_PACKAGES.to_string()),
        ("key_package_days", limits::MAX_KEY_PACKAGE_DAYS.to_string()),
        ("sealed_push_token", wire::queuing::SEALED_PUSH_TOKEN.to_string()),
        ("push_endpoint", wire::queuing::MAX_PUSH_ENDPOINT.to_string()),
        ("sealed_chain", limits::MAX_SEALED_CHAIN.to_string()),
        ("sealed_profile_key", limits::MAX_SEALED_PROFILE_KEY.to_string()),
        ("friendship_package", limits::MAX_FRIENDSHIP_PACKAGE.to_string()),
        ("frame_messages", wire::federation::MAX_FRAME_MESSAGES.to_string()),
        ("forward_recipients", wire::federation::MAX_RECIPIENTS.to_string()),
    ];
    same("Limits", &table("Limits", 2), &rows(&limits));
}

#[cfg(feature = "server")]
#[test]
fn rates() {
    use bennu::service::policy::{Rate, Rates};
    let rates = Rates::default();
    let row = |rate: &Rate| vec![rate.name().to_owned(), rates.per_hour(*rate).to_string()];
    same("Rates", &table("Rates", 2), &Rate::ALL.iter().map(row).collect::<Vec<_>>());
}

#[cfg(feature = "net")]
#[test]
fn strings() {
    use bennu::transport::tls::{ALPN, BINDING_LABEL};
    let row = |name: &str, bytes: &[u8]| vec![name.to_owned(), String::from_utf8(bytes.to_vec()).unwrap()];
    same("Strings", &table("Strings", 2), &[row("alpn", ALPN), row("channel_binding", BINDING_LABEL)]);
}

/// A declaration in a form that both languages come to: what it is, then its parts.
type Declarations = BTreeMap<String, Vec<String>>;

/// Where the structures of a file in `src/wire/` are specified.
const FILES: &[(&str, &str)] = &[
    ("authentication", "authentication"),
    ("connection", "connections"),
    ("content", "content"),
    ("credential", "credentials"),
    ("delivery", "delivery"),
    ("envelope", "envelope"),
    ("federation", "federation"),
    ("mls", "mls"),
    ("queue", "queues"),
    ("queuing", "queuing"),
    ("server", "server"),
];

/// Files of `src/wire/` that declare nothing: the macros themselves.
const ELSEWHERE: &[&str] = &["codec", "tests"];

#[test]
fn structures() {
    let mut differences = String::new();
    for (rust, tls) in FILES {
        let implemented = rust_declarations(&read(&format!("src/wire/{rust}.rs")));
        let specified = tls_declarations(&read(&format!("wire-spec/{tls}.tls")));
        assert!(!implemented.is_empty(), "no declarations found in src/wire/{rust}.rs");
        for name in implemented.keys().chain(specified.keys().filter(|name| !implemented.contains_key(*name))) {
            let (code, text) = (implemented.get(name), specified.get(name));
            if code != text {
                differences += &format!("\n{name}\n  src/wire/{rust}.rs:   {code:?}\n  wire-spec/{tls}.tls: {text:?}");
            }
        }
    }
    assert!(differences.is_empty(), "structures that differ:{differences}");
}

#[test]
fn no_structure_is_left_out_and_every_type_is_declared() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire");
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        let source = read(&format!("src/wire/{name}.rs"));
        let declares = ["wire_structs! {", "wire_selects! {", "wire_opaques! {"].iter().any(|it| source.contains(it));
        let known = FILES.iter().any(|(rust, _)| *rust == name) || ELSEWHERE.contains(&name.as_str());
        assert!(!declares || known, "src/wire/{name}.rs has structures: specify them, and add the file to FILES here");
    }
    // Every type that is used is declared, too, or this does not come back.
    Grammar::of_the_specification();
}

/// What the code says is written in wire-spec is there: pages, structures, and headings in quotation marks.
#[test]
fn references_from_the_code_lead_somewhere() {
    let mut missing = String::new();
    for (path, source) in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        for (at, _) in source.match_indices("wire-spec/") {
            let rest = &source[at + "wire-spec/".len()..];
            let page: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || ['-', '.', '/'].contains(c)).collect();
            let page = page.trim_end_matches('.');
            let Ok(text) = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("wire-spec").join(page))
            else {
                if !page.is_empty() {
                    missing += &format!("\n{}: wire-spec/{page}", path.display());
                }
                continue;
            };
            let heading = rest[page.len()..].strip_prefix("`, \"").and_then(|rest| rest.split('"').next());
            let there = |heading: &str| {
                text.lines().any(|line| line.starts_with('#') && line.ends_with(&format!("# {heading}")))
            };
            if let Some(heading) = heading.filter(|heading| !there(heading)) {
                missing += &format!("\n{}: wire-spec/{page}, \"{heading}\"", path.display());
            }
        }
    }
    assert!(missing.is_empty(), "references to what is not there:{missing}");
}

fn rust_files(directory: &Path) -> Vec<(std::path::PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            found.push((path, source));
        }
    }
    found
}

/// A type and a name as TLS presentation language writes them.
fn tls_field(kind: &str, name: &str) -> String {
    let simple = |kind: &str| match kind.rsplit("::").next().unwrap_or(kind) {
        "u8" => "uint8".to_owned(),
        "u16" => "uint16".to_owned(),
        "u32" => "uint32".to_owned(),
        "u64" => "uint64".to_owned(),
        "[u8; 32]" => "LeafIdentity".to_owned(),
        other => other.to_owned(),
    };
    let inside = |prefix: &str| kind.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
    if let Some(length) = kind.strip_prefix("[u8; ") {
        format!("opaque {name}[{length}")
    } else if let Some(length) = inside("Secret<") {
        format!("opaque {name}[{length}]")
    } else if let Some(element) = inside("Vec<") {
        format!("{} {name}<V>", simple(element))
    } else if let Some(element) = inside("Option<") {
        format!("optional<{}> {name}", simple(element))
    } else if kind == "Opaque" {
        format!("opaque {name}<V>")
    } else {
        format!("{} {name}", simple(kind))
    }
}

/// What the macros of `src/wire/` declare. They leave one item a line, which is what this reads.
fn rust_declarations(source: &str) -> Declarations {
    let mut found = Declarations::new();
    let mut open: Option<(String, Vec<String>, bool)> = None;
    for line in source.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        if let Some((name, parts, is_enum)) = &mut open {
            if line == "}" {
                found.insert(name.clone(), parts.clone());
                open = None;
            } else if *is_enum {
                let (variant, code) = line.trim_end_matches(',').split_once(" = ").unwrap();
                let (variant, body) =
                    variant.split_once('(').map_or((variant, None), |(v, b)| (v, b.strip_suffix(')')));
                let body = body.map_or("struct {}".to_owned(), |body| tls_field(body, "value"));
                parts.push(format!("{}({code}): {body}", snake(variant)));
            } else {
                let (field, kind) = line.trim_start_matches("pub ").trim_end_matches(',').split_once(": ").unwrap();
                parts.push(tls_field(kind, field));
            }
        } else if let Some(rest) = line.strip_prefix("pub struct ") {
            if let Some(name) = rest.strip_suffix(" {}") {
                found.insert(name.to_owned(), Vec::new());
            } else if let Some(name) = rest.strip_suffix(';') {
                found.insert(name.to_owned(), vec![format!("opaque {name}<V>")]);
            } else {
                open = Some((rest.trim_end_matches(" {").to_owned(), Vec::new(), false));
            }
        } else if let Some((name, width)) = line.strip_prefix("pub enum ").and_then(|rest| rest.split_once(": ")) {
            let max = if width.starts_with("u8") { "(255)" } else { "(65535)" };
            open = Some((name.to_owned(), vec![max.to_owned()], true));
        } else if let Some((name, length)) = line.strip_prefix("pub type ").and_then(|rest| rest.split_once(" = [u8; "))
        {
            found.insert(name.to_owned(), vec![format!("opaque {name}[{}", length.trim_end_matches(';'))]);
        }
    }
    assert!(open.is_none(), "a declaration does not end");
    found
}

/// What a `.tls` file declares. A `select` and the enum that it is over are one declaration in Rust.
fn tls_declarations(text: &str) -> Declarations {
    let declared = presentation::declarations(text);
    let mut found = Declarations::new();
    for (name, kind) in &declared {
        let parts = match kind {
            Type::Enum(..) if declared.iter().any(|(of, kind)| *name == format!("{of}Type") && is_select(kind)) => {
                continue;
            }
            Type::Enum(width, codes) => with_codes(*width, codes, |_| None),
            Type::Struct(fields) => match &fields[..] {
                [_, Field::Select(_, cases)] => {
                    let codes = declared.iter().find(|(other, _)| *other == format!("{name}Type"));
                    let Some((_, Type::Enum(width, codes))) = codes else { panic!("{name} has no {name}Type") };
                    assert_eq!(codes.len(), cases.len(), "{name} has cases without a code");
                    with_codes(*width, codes, |code| cases.iter().find(|(case, _)| case == code)?.1.as_ref())
                }
                fields => fields.iter().map(tls_part).collect(),
            },
            kind => vec![tls_text(name, kind)],
        };
        found.insert(name.clone(), parts);
    }
    found
}

fn is_select(kind: &Type) -> bool {
    matches!(kind, Type::Struct(fields) if fields.iter().any(|field| matches!(field, Field::Select(..))))
}

/// The width first, then each code with what follows it.
fn with_codes<'a>(
    width: usize,
    codes: &[(String, u64)],
    body: impl Fn(&str) -> Option<&'a (String, Type)>,
) -> Vec<String> {
    let all = codes.iter().map(|(name, code)| {
        let body = body(name).map_or("struct {}".to_owned(), |(name, kind)| tls_text(name, kind));
        format!("{name}({code}): {body}")
    });
    [format!("({})", (1_u64 << (8 * width)) - 1)].into_iter().chain(all).collect()
}

fn tls_part(field: &Field) -> String {
    match field {
        Field::Plain(name, kind) => tls_text(name, kind),
        Field::Select(selector, _) => panic!("a select over {selector} beside other fields"),
    }
}

fn tls_text(name: &str, kind: &Type) -> String {
    match kind {
        Type::Octets(length) => format!("opaque {name}[{length}]"),
        Type::Rest => format!("opaque {name}[...]"),
        Type::Opaque => format!("opaque {name}<V>"),
        Type::Vector(element) => format!("{} {name}<V>", tls_name(element)),
        Type::Optional(inner) => format!("optional<{}> {name}", tls_name(inner)),
        kind => format!("{} {name}", tls_name(kind)),
    }
}

fn tls_name(kind: &Type) -> String {
    match kind {
        Type::Integer(size) => format!("uint{}", 8 * size),
        Type::Named(name) => name.clone(),
        kind => panic!("{kind:?} has no name"),
    }
}
