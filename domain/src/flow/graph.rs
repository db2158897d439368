//! Graphs of named tasks: every name is known, and nothing waits for itself, however far around.

use std::collections::HashMap;

/// Why named tasks cannot wait for each other like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Two tasks have the same name.
    #[error("two tasks are called {0:?}")]
    Duplicate(String),
    /// One waits for a name that no task has.
    #[error("{by} waits for {needs:?}, and no task is called that")]
    Unknown {
        /// Who.
        by: String,
        /// For what.
        needs: String,
    },
    /// They wait for each other in a circle: each for the next.
    #[error("they wait for each other in a circle: {}", .0.join(" → "))]
    Circle(Vec<String>),
}

/// A task of a graph: its name, if any, and the names of those that it waits for.
#[derive(Debug, Clone, Default)]
pub struct Node<'a> {
    /// What others call it.
    pub name: Option<&'a str>,
    /// Whom it waits for.
    pub after: Vec<&'a str>,
}

/// Whom each task waits for, by place; or why that is not possible.
pub fn places(nodes: &[Node<'_>]) -> Result<Vec<Vec<usize>>, GraphError> {
    let mut by_name = HashMap::with_capacity(nodes.len());
    for (place, node) in nodes.iter().enumerate() {
        if let Some(name) = node.name
            && by_name.insert(name, place).is_some()
        {
            return Err(GraphError::Duplicate(name.to_owned()));
        }
    }
    let mut edges = Vec::with_capacity(nodes.len());
    for (place, node) in nodes.iter().enumerate() {
        let mut needs = Vec::with_capacity(node.after.len());
        for name in &node.after {
            let Some(found) = by_name.get(name) else {
                return Err(GraphError::Unknown { by: called(nodes, place), needs: (*name).to_owned() });
            };
            needs.push(*found);
        }
        edges.push(needs);
    }
    match circle(&edges) {
        Some(circle) => {
            Err(GraphError::Circle(circle.into_iter().map(|place| called(nodes, place)).collect()))
        }
        None => Ok(edges),
    }
}

fn called(nodes: &[Node<'_>], place: usize) -> String {
    let name = nodes.get(place).and_then(|node| node.name);
    name.map_or_else(|| format!("item {place}"), str::to_owned)
}

/// A way along these edges that ends where it began, if there is one. Without recursion: a chain may be long.
fn circle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnTheWay,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    for start in 0..edges.len() {
        if marks[start] != Mark::New {
            continue;
        }
        // The way so far, each with the next of its edges to look at.
        let mut way = vec![(start, 0)];
        marks[start] = Mark::OnTheWay;
        while let Some((place, next)) = way.last_mut() {
            let Some(to) = edges[*place].get(*next).copied() else {
                marks[*place] = Mark::Done;
                way.pop();
                continue;
            };
            *next += 1;
            match marks[to] {
                Mark::Done => {}
                Mark::New => {
                    marks[to] = Mark::OnTheWay;
                    way.push((to, 0));
                }
                Mark::OnTheWay => {
                    let mut circle: Vec<_> =
                        way.iter().map(|(place, _)| *place).skip_while(|place| *place != to).collect();
                    circle.push(to);
                    return Some(circle);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node<'a>(name: &'a str, after: &[&'a str]) -> Node<'a> {
        Node { name: Some(name), after: after.to_vec() }
    }

    #[test]
    fn a_circle_is_refused_with_its_path() {
        let nodes = [node("x", &["a"]), node("a", &["b"]), node("b", &["c"]), node("c", &["a"])];
        let error = places(&nodes).expect_err("a circle");
        assert_eq!(error.to_string(), "they wait for each other in a circle: a → b → c → a");
        let error = places(&[node("a", &["a"])]).expect_err("a circle of one");
        assert_eq!(error, GraphError::Circle(vec!["a".into(), "a".into()]));
    }

    #[test]
    fn names_are_known_and_used_once() {
        assert_eq!(places(&[node("a", &[]), node("a", &[])]), Err(GraphError::Duplicate("a".into())));
        let nameless = Node { name: None, after: vec!["b"] };
        let error = places(&[node("a", &[]), nameless]).expect_err("nobody is called b");
        assert_eq!(error.to_string(), "item 1 waits for \"b\", and no task is called that");
        assert_eq!(places(&[node("b", &["a"]), node("a", &[])]), Ok(vec![vec![1], vec![]]));
    }

    #[test]
    fn a_long_chain_is_no_circle() {
        let names: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        let link = |n: usize| Node {
            name: Some(names[n].as_str()),
            after: if n == 0 { Vec::new() } else { vec![names[n - 1].as_str()] },
        };
        let nodes: Vec<_> = (0..names.len()).map(link).collect();
        assert!(places(&nodes).is_ok());
    }

    proptest! {
        /// Edges that all go from higher to lower places make no circle; one that goes back along them does, and the path
        /// that is told is one of edges.
        #[test]
        fn exactly_circles_are_refused(
            size in 2usize..12,
            seeds in proptest::collection::vec((0usize..12, 0usize..12), 0..40),
            back in proptest::option::of((0usize..12, 0usize..12)),
        ) {
            let mut edges = vec![Vec::new(); size];
            for (a, b) in seeds {
                let (a, b) = (a % size, b % size);
                if a > b {
                    edges[a].push(b);
                }
            }
            prop_assert_eq!(circle(&edges), None);
            if let Some((from, to)) = back {
                edges[from % size].push(to % size);
                if let Some(path) = circle(&edges) {
                    prop_assert_eq!(path.first(), path.last());
                    for step in path.windows(2) {
                        prop_assert!(edges[step[0]].contains(&step[1]));
                    }
                    prop_assert!(from % size <= to % size);
                }
            }
        }
    }
}
