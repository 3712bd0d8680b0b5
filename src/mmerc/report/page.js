"use strict";
// Filters, keys, highlights and playing. The page says everything without this script.
(() => {
  const root = document.documentElement;
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const one = (id) => document.getElementById(id);
  const turns = all(".turn");
  const bars = new Map(all(".bar").map((bar) => [bar.getAttribute("href").slice(1), bar]));
  const media = one("media");
  const help = one("help");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let current = null;

  root.classList.add("js");
  all(".buttons, .tools").forEach((part) => { part.hidden = false; });

  // Dark or light
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const showTheme = () => one("theme-button").setAttribute("aria-pressed", String(isDark()));
  const turnLights = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  };
  one("theme-button").addEventListener("click", turnLights);
  showTheme();

  // Filters
  const texts = new Map(turns.map((turn) => [turn, turn.querySelector(".text").textContent.toLowerCase()]));
  const chips = all(".moods .chip");
  const filter = () => {
    const words = one("search").value.trim().toLowerCase();
    const speaker = one("speaker")?.value ?? "";
    const moods = chips.filter((chip) => chip.getAttribute("aria-pressed") === "true");
    const labels = new Set(moods.map((chip) => chip.dataset.label));
    let shown = 0;
    for (const turn of turns) {
      const fits = (!speaker || turn.dataset.speaker === speaker)
        && (!labels.size || labels.has(turn.dataset.label))
        && (!one("low").checked || "low" in turn.dataset)
        && (!words || texts.get(turn).includes(words));
      turn.hidden = !fits;
      bars.get(turn.id).classList.toggle("out", !fits);
      shown += fits;
    }
    one("shown").textContent = `${shown} of ${turns.length} turns`;
    one("clear").hidden = shown === turns.length;
    document.querySelector(".nothing").hidden = shown > 0;
  };
  const showAll = () => {
    one("search").value = "";
    if (one("speaker")) one("speaker").value = "";
    one("low").checked = false;
    chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
    filter();
  };
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }
  one("search").addEventListener("input", filter);
  one("speaker")?.addEventListener("change", filter);
  one("low").addEventListener("change", filter);
  one("clear").addEventListener("click", showAll);
  filter();

  // Which turns moved this one: their rows are marked, and arcs lead from them in the timeline.
  const arc = (svg, from, to, change) => {
    const left = svg.getBoundingClientRect().left;
    const top = svg.getBoundingClientRect().top;
    const [a, b] = [from, to].map((bar) => bar.querySelector("rect").getBoundingClientRect());
    const x0 = a.left + a.width / 2 - left;
    const x1 = b.left + b.width / 2 - left;
    const y0 = a.top - top;
    const y1 = b.top - top;
    const upper = Math.min(y0, y1);
    const lift = Math.max(4 - upper, upper - Math.min(46, 14 + Math.abs(x1 - x0) / 8)); // inside the drawing
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M${x0} ${y0}Q${(x0 + x1) / 2} ${lift} ${x1} ${y1}`);
    path.setAttribute("stroke-width", String(2 + Math.min(5, Math.abs(change) * 16)));
    path.setAttribute("class", change > 0 ? "for" : "against");
    svg.querySelector(".arcs").append(path);
  };
  const fade = () => {
    all(".moves").forEach((row) => {
      row.classList.remove("moves", "for", "against");
      row.removeAttribute("data-moves");
    });
    all(".arcs path").forEach((path) => path.remove());
    all(".bar.pointed").forEach((bar) => bar.classList.remove("pointed"));
  };
  const light = (turn) => {
    fade();
    if (!turn) return;
    const bar = bars.get(turn.id);
    bar.classList.add("pointed");
    const svg = bar.closest("svg.lanes");
    const number = turn.querySelector(".number").textContent;
    for (const link of all(".because a[data-change]", turn)) {
      const id = link.getAttribute("href").slice(1);
      const change = Number(link.dataset.change);
      const points = link.parentNode.querySelector("b").textContent;
      const row = one(id);
      row.classList.add("moves", change > 0 ? "for" : "against");
      row.dataset.moves = `${change > 0 ? "▲" : "▼"} ${points} for ${number}`;
      arc(svg, bars.get(id), bar, change);
    }
  };
  const turnOf = (node) => {
    const bar = node.closest?.(".bar");
    return bar ? one(bar.getAttribute("href").slice(1)) : node.closest?.(".turn");
  };
  for (const part of all(".turns, svg.lanes")) {
    part.addEventListener("pointerover", (event) => {
      const turn = turnOf(event.target);
      if (turn) light(turn);
    });
    part.addEventListener("pointerleave", () => light(current));
  }
  addEventListener("resize", fade);

  // The current turn
  const choose = (turn, focus = true) => {
    if (current) {
      current.removeAttribute("aria-current");
      current.tabIndex = -1;
    }
    current = turn;
    turn.setAttribute("aria-current", "true");
    turn.tabIndex = 0;
    if (focus) {
      turn.focus({ preventScroll: true });
      turn.scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
    }
    light(turn);
  };
  const step = (by) => {
    const shown = turns.filter((turn) => !turn.hidden);
    if (!shown.length) return;
    const place = shown.indexOf(current);
    const start = by > 0 ? 0 : shown.length - 1;
    choose(shown[place < 0 ? start : Math.max(0, Math.min(shown.length - 1, place + by))]);
  };
  if (turns.length) turns[0].tabIndex = 0;
  document.addEventListener("focusin", (event) => {
    const turn = event.target.closest(".turn");
    if (turn && turn !== current) choose(turn, false);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#c"]');
    const target = link && one(link.getAttribute("href").slice(1));
    if (target?.classList.contains("turn")) {
      event.preventDefault();
      if (target.hidden) showAll();
      choose(target);
    }
  });

  // Playing
  let until = Infinity;
  let playing = null;
  const stop = () => {
    playing?.classList.remove("playing");
    playing = null;
  };
  const play = (turn) => {
    if (!media || !turn.dataset.start) return false;
    stop();
    one("player").classList.add("open");
    playing = turn;
    turn.classList.add("playing");
    until = Number(turn.dataset.end);
    media.currentTime = Number(turn.dataset.start);
    one("playing").textContent = `Turn ${turn.querySelector(".number").textContent}`;
    media.play().catch(() => {}); // what is wrong is told by the error event
    return true;
  };
  const lost = () => {
    one("lost").hidden = false;
    one("playing").hidden = true;
    one("player").classList.add("open");
    stop();
  };
  if (media) {
    one("close").hidden = false;
    media.addEventListener("timeupdate", () => {
      if (playing && media.currentTime >= until) {
        media.pause();
        stop();
      }
    });
    media.addEventListener("error", lost);
    if (media.error) lost();
    one("close").addEventListener("click", () => {
      media.pause();
      stop();
      one("player").classList.remove("open");
    });
    for (const turn of turns) {
      turn.addEventListener("click", (event) => {
        const link = event.target.closest("a, summary, button");
        if (link && !link.classList.contains("play")) return;
        if (!link && String(getSelection())) return;
        event.preventDefault();
        choose(turn, false);
        play(turn);
      });
    }
  }

  // Keys
  const numbers = (turn) => {
    const details = turn.querySelector("details");
    details.open = !details.open;
  };
  const ask = () => help.showModal();
  one("help-button").addEventListener("click", ask);
  const inTurns = () => document.activeElement?.closest(".turn");
  const keys = {
    j: () => step(1),
    k: () => step(-1),
    o: () => current && numbers(current),
    "/": () => one("search").focus(),
    l: () => one("low").click(),
    d: turnLights,
    "?": ask,
  };
  const more = {
    ArrowDown: () => inTurns() && (step(1), true),
    ArrowUp: () => inTurns() && (step(-1), true),
    Enter: () => document.activeElement === current && current && (play(current) || numbers(current), true),
    Escape: () => (showAll(), document.activeElement?.blur(), false),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || help.open) return;
    if (event.key !== "Escape" && event.target.closest("input:not([type=checkbox]), select, textarea, video, audio")) return;
    if (one("keys").checked && Object.hasOwn(keys, event.key)) {
      keys[event.key]();
      event.preventDefault();
    } else if (Object.hasOwn(more, event.key) && more[event.key]()) {
      event.preventDefault();
    }
  });
  if (/^#c\d+t\d+$/.test(location.hash) && one(location.hash.slice(1))) choose(one(location.hash.slice(1)));
})();
