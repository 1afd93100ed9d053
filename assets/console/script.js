// Adds what pages do not need: buttons that copy a value, and a dashboard that loads itself again.
"use strict";

for (const value of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${value.dataset.copyLabel ?? value.dataset.copy}`);
  const status = document.createElement("span");
  status.className = "faint";
  status.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(value.dataset.copy);
      status.textContent = " Copied.";
    } catch {
      // Without TLS the browser has no clipboard for pages.
      status.textContent = " Not copied. Select the text.";
    }
  });
  value.after(button, status);
}

const refresh = document.querySelector("[data-refresh-seconds]");
if (refresh) {
  setInterval(() => {
    const isInUse = document.hidden || document.querySelector("details[open], :focus-visible");
    if (isInUse) return;
    // The server does not count this request as use: an unattended page does not keep the session.
    const url = new URL(location.href);
    url.searchParams.set("auto", "1");
    location.replace(url);
  }, Number(refresh.dataset.refreshSeconds) * 1000);
}

// The address bar must not repeat the message when the page is loaded again, and a reload by hand counts as use.
if (/[?&](done|auto)=/.test(location.search)) {
  const url = new URL(location.href);
  url.searchParams.delete("done");
  url.searchParams.delete("auto");
  history.replaceState(null, "", url);
}
