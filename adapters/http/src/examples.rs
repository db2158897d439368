//! The example page of `docs/examples`, served from the program itself.

use poem::{Endpoint, Response, Route, endpoint::make_sync, http::header, web::Redirect};

/// Nothing from elsewhere, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// What stands in the page for the API's prefix.
const PREFIX_IN_PAGE: &str = r#"content="/api/v1""#;

/// Adds `/examples/` and what its page needs.
pub(crate) fn add_to(route: Route, prefix: &str) -> Route {
    let page = include_str!("../../../docs/examples/index.html");
    let page = page.replacen(PREFIX_IN_PAGE, &format!(r#"content="{prefix}""#), 1);
    let (script, style) = (
        include_str!("../../../docs/examples/live-task.js"),
        include_str!("../../../docs/examples/live-task.css"),
    );
    route
        // The page's links are relative to its folder.
        .at("/examples", poem::get(make_sync(|_| Redirect::see_other("/examples/"))))
        .at("/examples/", file("text/html; charset=utf-8", page))
        .at("/examples/live-task.js", file("text/javascript; charset=utf-8", script.to_owned()))
        .at("/examples/live-task.css", file("text/css; charset=utf-8", style.to_owned()))
}

fn file(content_type: &'static str, text: String) -> impl Endpoint {
    poem::get(make_sync(move |_| {
        let answer = Response::builder().content_type(content_type);
        answer.header(header::CONTENT_SECURITY_POLICY, POLICY).body(text.clone())
    }))
}

#[cfg(test)]
mod tests {
    use poem::test::TestClient;

    use super::*;

    #[tokio::test]
    async fn the_page_knows_the_apis_prefix_and_loads_from_here_only() {
        let client = TestClient::new(add_to(Route::new(), "/of/mine"));
        let page = client.get("/examples/").send().await;
        page.assert_status_is_ok();
        page.assert_header("content-security-policy", POLICY);
        let html = page.0.into_body().into_string().await.expect("text");
        assert!(html.contains(r#"<meta name="api" content="/of/mine">"#), "{html}");
        for part in ["live-task.js", "live-task.css"] {
            assert!(html.contains(&format!(r#""{part}""#)), "{part} is used");
            client.get(format!("/examples/{part}")).send().await.assert_status_is_ok();
        }
        let elsewhere = client.get("/examples").send().await;
        elsewhere.assert_header("location", "/examples/");
    }
}
