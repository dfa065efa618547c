//! The report as one HTML file that needs nothing else: no network, no server, no other file.
//!
//! The report is in it as JSON; a script (`page/page.js`) draws the plots as SVG and fills the tables.
//! Everything from the report reaches the page as text, never as markup, and the page's own policy forbids it
//! to load anything.

use super::Report;
use crate::shown::script;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The page.
///
/// # Errors
/// None that a report of ours could cause.
pub fn render(report: &Report) -> serde_json::Result<String> {
    let data = script(&serde_json::to_string(report)?);
    Ok(PAGE.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT).replace("\"DATA\"", &data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::schema::Site;

    #[test]
    fn nothing_in_a_report_becomes_markup() {
        let evil = "</script><script>alert(1)</script>";
        let site = Site { symbol: Some(evil.into()), ..Site::default() };
        let page = render(&Report { program: evil.into(), sites: vec![site], ..Report::default() }).unwrap();
        assert!(!page.contains("alert(1)</script>") && page.contains("\\u003c/script>"));
        assert_eq!(page.matches("</script>").count(), 2);
    }

    #[test]
    fn the_page_refers_to_nothing_outside() {
        let page = render(&Report::default()).unwrap();
        assert!(page.contains("default-src 'none'"));
        for outside in ["src=", "href=", "url(", "@import", "fetch("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
