// Comforts; every page works without them. Texts are set as text, never as markup.
"use strict";

const POLL_MILLISECONDS = 700;

// Times in the reader's own zone; the title keeps UTC.
for (const time of document.querySelectorAll("time[datetime]")) {
  const at = new Date(time.dateTime);
  if (!Number.isNaN(at.getTime())) {
    time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }
}

// A job that runs: say how it stands, and show the page anew when it has ended.
async function follow(job) {
  try {
    const answer = await fetch(job.dataset.poll, { headers: { accept: "application/json" } });
    if (!answer.ok) {
      return;
    }
    const state = await answer.json();
    const told = job.querySelector("[data-told]");
    if (told.textContent !== state.told) {
      told.textContent = state.told;
    }
    if (state.final) {
      window.location.reload();
      return;
    }
  } catch {
    // The server is away for a moment: ask again.
  }
  window.setTimeout(() => follow(job), POLL_MILLISECONDS);
}
for (const job of document.querySelectorAll("[data-poll]")) {
  window.setTimeout(() => follow(job), POLL_MILLISECONDS);
}

// One more empty example in the form of a new target.
for (const button of document.querySelectorAll("[data-more]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const rows = button.parentElement.querySelector("[data-rows]");
    const number = rows.children.length + 1;
    const row = rows.lastElementChild.cloneNode(true);
    for (const area of row.querySelectorAll("textarea")) {
      area.value = "";
      area.id = `${area.name}-${number}`;
      const label = area.previousElementSibling;
      label.htmlFor = area.id;
      label.textContent = `${area.name === "prompt" ? "Prompt" : "Answer"} ${number}`;
    }
    rows.append(row);
    row.querySelector("textarea").focus();
  });
}

// Phrases that hold what is typed; nothing of it leaves the page.
for (const filter of document.querySelectorAll("[data-filter]")) {
  filter.hidden = false;
  const rows = filter.parentElement.querySelectorAll("tr[data-text]");
  filter.querySelector("input").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of rows) {
      row.hidden = !row.dataset.text.toLowerCase().includes(wanted);
    }
  });
}

document.addEventListener("keydown", (event) => {
  // Ctrl+Enter sends the playground's form from within its fields.
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    const form = event.target.closest("form[data-submit]");
    if (form !== null) {
      event.preventDefault();
      form.requestSubmit();
    }
  }
  // A slash outside of fields goes to the search.
  const typing = event.target.closest("input, textarea, select") !== null;
  const search = document.querySelector(`[data-shortcut="${CSS.escape(event.key)}"]`);
  if (!typing && search !== null && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
  }
});
