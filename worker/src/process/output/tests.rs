use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::*;
use crate::logs::redact;

const LINES_PER_WINDOW: u32 = 500;

async fn collect(bytes: &[u8]) -> Vec<Output> {
    let mut outputs = Vec::new();
    read_lines(bytes, CancellationToken::new(), 0, |output| outputs.push(output)).await;
    outputs
}

fn line(text: &str) -> Output {
    Output::Line(text.to_owned())
}

#[tokio::test]
async fn splits_lines_and_keeps_an_unfinished_last_one() {
    let outputs = collect(b"one\r\n\n  two\nbroken \xff utf-8\nlast").await;
    assert_eq!(outputs, [line("one"), line("  two"), line("broken \u{fffd} utf-8"), line("last")]);
}

#[tokio::test]
async fn cuts_long_lines_and_says_so() {
    let mut bytes = vec![b'x'; MAX_LINE_LEN + 20_000];
    bytes.extend_from_slice(b"\nnext\n");
    let outputs = collect(&bytes).await;
    let Output::Line(first) = &outputs[0] else { panic!("{outputs:?}") };
    assert_eq!(first, &format!("{} … (20000 more bytes)", "x".repeat(MAX_LINE_LEN)));
    assert_eq!(outputs[1..], [line("next")]);
}

#[tokio::test]
async fn a_secret_that_the_cut_goes_through_is_recognized_by_its_beginning() {
    redact::add("secret-across-the-cut");
    let text = format!("{}secret-across-the-cut{}\n", "x".repeat(MAX_LINE_LEN - 10), "y".repeat(100));
    let outputs = collect(text.as_bytes()).await;
    let Output::Line(first) = &outputs[0] else { panic!("{outputs:?}") };
    let cleaned = redact::clean(first);
    assert!(cleaned.contains("xx***… (") && !cleaned.contains("secret"), "{}", &cleaned[MAX_LINE_LEN - 20..]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_limited_counted_and_over_after_a_window() {
    let (mut writer, reader) = tokio::io::duplex(64 * 1024);
    let (sender, mut outputs) = tokio::sync::mpsc::channel(4096);
    let task = tokio::spawn(async move {
        read_lines(reader, CancellationToken::new(), LINES_PER_WINDOW, |output| sender.try_send(output).unwrap()).await;
    });
    let flood = "a\n".repeat(LINES_PER_WINDOW as usize + 7);
    writer.write_all(flood.as_bytes()).await.unwrap();
    for _ in 0..LINES_PER_WINDOW {
        assert_eq!(outputs.recv().await, Some(line("a")));
    }
    for _ in 0..7 {
        assert_eq!(outputs.recv().await, Some(Output::Excess("a".to_owned())));
    }
    // The stream is still open: the report comes by itself when the window ends.
    assert_eq!(outputs.recv().await, Some(Output::Dropped(7)));
    writer.write_all(b"b\n").await.unwrap();
    assert_eq!(outputs.recv().await, Some(line("b")));
    drop(writer);
    task.await.unwrap();
    assert_eq!(outputs.recv().await, None);
}

#[tokio::test]
async fn stop_takes_what_is_there_and_returns() {
    let (mut writer, reader) = tokio::io::duplex(1024);
    writer.write_all(b"first\nhalf").await.unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let mut outputs = Vec::new();
    read_lines(reader, stop, LINES_PER_WINDOW, |output| outputs.push(output)).await;
    assert_eq!(outputs, [line("first"), line("half")]);
    drop(writer);
}

/// What comes of these writes, a tenth of a second apart.
async fn written_slowly(writes: &[&[u8]]) -> Vec<Output> {
    let (mut writer, reader) = tokio::io::duplex(64 * 1024);
    let (sender, mut outputs) = tokio::sync::mpsc::channel(4096);
    let task = tokio::spawn(async move {
        read_lines(reader, CancellationToken::new(), 0, |output| sender.try_send(output).unwrap()).await;
    });
    for bytes in writes {
        writer.write_all(bytes).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(writer);
    task.await.unwrap();
    let mut all = Vec::new();
    while let Some(output) = outputs.recv().await {
        all.push(output);
    }
    all
}

fn state(text: &str) -> Output {
    Output::State(text.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_progress_bar_shows_one_state_a_second_and_always_its_last() {
    let bar: Vec<String> = (0..=100).map(|percent| format!("\r{percent:>3}% done")).collect();
    let mut writes: Vec<&[u8]> = bar.iter().map(String::as_bytes).collect();
    writes.push(b"\nnext\n");
    let outputs = written_slowly(&writes).await;
    let states = outputs.iter().filter(|output| matches!(output, Output::State(_))).count();
    assert!((9..=11).contains(&states), "{states} states in ten seconds: {outputs:?}");
    assert_eq!(outputs[0], state(" 10% done"));
    assert_eq!(outputs[outputs.len() - 2..], [line("100% done"), line("next")]);
}

#[tokio::test(start_paused = true)]
async fn a_bar_that_stands_still_is_shown_within_a_second_and_once() {
    let mut writes: Vec<&[u8]> = vec![b"\r 1%", b"\r 2%"];
    writes.extend([&b""[..]; 50]);
    writes.push(b"\n");
    assert_eq!(written_slowly(&writes).await, [state(" 2%")], "the line that ends with it says nothing new");
}

#[tokio::test(start_paused = true)]
async fn a_bar_whose_return_comes_last_is_shown_too() {
    let mut writes: Vec<&[u8]> = vec![b"1%\r", b"2%\r"];
    writes.extend([&b""[..]; 20]);
    assert_eq!(written_slowly(&writes).await, [state("2%")]);
    assert_eq!(written_slowly(&[b"1%\r", b"2%\r"]).await, [line("2%")], "end-of-file shows the last state");
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_leaves_of_a_bar_is_its_last_state() {
    assert_eq!(written_slowly(&[b"loading\n", b"\r10%", b"\r20%"]).await, [line("loading"), line("20%")]);
}

#[tokio::test(start_paused = true)]
async fn bars_that_never_pause_are_shown_all_the_same() {
    let (mut writer, reader) = tokio::io::duplex(64);
    let (sender, mut outputs) = tokio::sync::mpsc::channel(4096);
    tokio::spawn(async move {
        read_lines(reader, CancellationToken::new(), 0, |output| sender.try_send(output).unwrap()).await;
    });
    for step in 0..3000 {
        writer.write_all(format!("\rstep {step}").as_bytes()).await.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    drop(writer);
    let mut all = Vec::new();
    while let Some(output) = outputs.recv().await {
        all.push(output);
    }
    assert!((3..=4).contains(&all.len()), "{all:?}");
    assert_eq!(all.last(), Some(&line("step 2999")));
}

#[tokio::test(start_paused = true)]
async fn line_ends_of_other_systems_are_line_ends_wherever_a_read_is_cut() {
    let expected = [line("one"), line("two"), line("three")];
    let text = b"one\r\ntwo\r\r\nthree\r\n";
    for cut in 0..text.len() {
        assert_eq!(written_slowly(&[&text[..cut], &text[cut..]]).await, expected, "cut at {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn characters_are_whole_wherever_a_read_is_cut() {
    let text = "Grüße 日本 🚲\n".as_bytes();
    for cut in 0..text.len() {
        assert_eq!(written_slowly(&[&text[..cut], &text[cut..]]).await, [line("Grüße 日本 🚲")], "cut at {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_printed_in_parts_is_one_line() {
    let mut writes: Vec<&[u8]> = vec![b"Loading ... "];
    writes.extend([&b""[..]; 50]);
    writes.push(b"done\n");
    assert_eq!(written_slowly(&writes).await, [line("Loading ... done")]);
}

#[tokio::test(start_paused = true)]
async fn the_last_state_of_a_bar_is_logged_even_if_it_was_over_the_rate_limit_before() {
    for closing in ["", "\n"] {
        let (mut writer, reader) = tokio::io::duplex(64 * 1024);
        let (sender, mut outputs) = tokio::sync::mpsc::channel(4096);
        let task = tokio::spawn(async move {
            read_lines(reader, CancellationToken::new(), 1, |output| sender.try_send(output).unwrap()).await;
        });
        for (pause, bytes) in [(500, "\r1%"), (700, "\na\n\r2%"), (1100, closing)] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            writer.write_all(bytes.as_bytes()).await.unwrap();
        }
        let mut all = Vec::new();
        while all.len() < 5 {
            all.push(outputs.recv().await.unwrap());
        }
        drop(writer);
        task.await.unwrap();
        let excess = [Output::Excess("a".to_owned()), Output::ExcessState("2%".to_owned())];
        assert_eq!((&all[0], &all[1..3]), (&line("1%"), &excess[..]));
        let last = if closing.is_empty() { state("2%") } else { line("2%") };
        assert_eq!(all[3..], [Output::Dropped(2), last]);
        assert_eq!(outputs.recv().await, None, "nothing is logged twice");
    }
}
