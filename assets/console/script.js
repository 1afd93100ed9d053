// Adds what pages do not need: buttons that copy a value, and a dashboard that loads itself again.
"use strict";

for (const value of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${value.dataset.copyLabel ?? value.dataset.copy}`);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(value.dataset.copy);
    button.textContent = "Copied";
  });
  value.after(button);
}

const refresh = document.querySelector("[data-refresh-seconds]");
if (refresh) {
  setInterval(() => {
    const isInUse = document.hidden || document.querySelector("details[open], :focus-visible");
    if (!isInUse) location.reload();
  }, Number(refresh.dataset.refreshSeconds) * 1000);
}

// The address bar must not repeat the message when the page is loaded again.
if (location.search.includes("done=")) {
  const url = new URL(location.href);
  url.searchParams.delete("done");
  history.replaceState(null, "", url);
}
