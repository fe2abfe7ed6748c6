// The mailbox by itself: new mails, local times, copying a code, clearing. The page works without it.
'use strict';
(() => {
  const $ = (selector) => document.querySelector(selector);

  const dress = () => {
    for (const time of document.querySelectorAll('time')) {
      const at = new Date(time.dateTime);
      const today = at.toDateString() === new Date().toDateString();
      if (!Number.isNaN(at.getTime())) time.textContent = today ? at.toLocaleTimeString() : at.toLocaleString();
    }
    for (const copy of document.querySelectorAll('[data-copy]')) copy.hidden = false;
    $('[data-clear]').hidden = !$('#list ol');
  };

  // The server renders the page; only what is new in it is exchanged. A chosen mail stays.
  const load = async () => {
    const response = await fetch(location.href, { cache: 'no-store' });
    if (!response.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), 'text/html');
    exchange(page, 'list');
    const chosen = document.body.classList.contains('chosen');
    if (!chosen && page.getElementById('mail').dataset.id !== $('#mail').dataset.id) exchange(page, 'mail');
    document.title = page.title;
    dress();
  };
  const exchange = (page, part) => {
    const old = document.getElementById(part);
    const fresh = page.getElementById(part);
    const held = old.contains(document.activeElement) && document.activeElement.getAttribute('href');
    old.replaceWith(fresh);
    const again = held && [...fresh.querySelectorAll('a')].find((link) => link.getAttribute('href') === held);
    if (again) again.focus();
  };
  let turn = Promise.resolve();
  const refresh = () => { turn = turn.then(load).catch(() => {}); };

  document.addEventListener('click', async ({ target }) => {
    if (target.matches('[data-copy]')) {
      const code = document.getElementById(target.dataset.copy);
      let copied;
      try {
        await navigator.clipboard.writeText(code.textContent);
        copied = true;
      } catch {
        getSelection().selectAllChildren(code);
        copied = document.execCommand('copy');
      }
      $('[data-copied]').textContent = copied ? 'Copied.' : 'Selected; copy it by hand.';
    }
    if (target.matches('[data-clear]')) {
      await fetch('/dev/mailbox/messages', { method: 'DELETE' });
      location.href = '/dev/mailbox';
    }
  });

  const live = $('[data-live]');
  const events = new EventSource('/dev/mailbox/events');
  // Mails may have come while nobody listened.
  events.addEventListener('open', () => {
    live.textContent = 'New ones appear by themselves.';
    refresh();
  });
  events.addEventListener('mail', refresh);
  events.addEventListener('error', () => { live.textContent = 'Not connected, trying again.'; });

  dress();
})();
