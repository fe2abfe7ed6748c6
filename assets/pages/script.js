// Adds comfort; every page works without it. Nothing is ever sent but the password check, and nothing is submitted.
'use strict';
(() => {
  const all = (selector) => document.querySelectorAll(selector);

  // The code: in capitals, as 5-5, however it is typed or pasted.
  const group = (text) => {
    const symbols = text.replace(/[^0-9a-z]/gi, '').toUpperCase().slice(0, 10);
    return symbols.length > 5 ? symbols.slice(0, 5) + '-' + symbols.slice(5) : symbols;
  };

  // What was said about the last entry is not about this one.
  const forgive = (field) => {
    const old = document.getElementById(field.id + '-error');
    if (old) old.hidden = true;
    field.removeAttribute('aria-invalid');
    const links = [...all('#problem a')].map((link) => link.hash);
    if (links.length === 1 && links[0] === '#' + field.id) document.getElementById('problem').hidden = true;
  };

  for (const field of all('[data-code]')) {
    field.addEventListener('input', (event) => {
      forgive(field);
      if (event.isComposing) return;
      const before = group(field.value.slice(0, field.selectionStart));
      const atEnd = field.selectionStart === field.value.length;
      field.value = group(field.value);
      const caret = atEnd ? field.value.length : before.length;
      field.setSelectionRange(caret, caret);
    });
    // A pasted piece of the mail, with the code somewhere in it.
    field.addEventListener('paste', (event) => {
      const text = event.clipboardData.getData('text');
      const found = text.match(/(?<![0-9a-z])[0-9a-z]{5}[\s-]*[0-9a-z]{5}(?![0-9a-z])/gi);
      const code = found && (found.find((part) => /\d/.test(part)) || found[0]);
      if (!code) return;
      event.preventDefault();
      field.value = group(code);
      forgive(field);
    });
  }

  // A mail's link carries the code behind the #, where no server sees it. It is filled in, not sent.
  const takeFragment = () => {
    const code = new URLSearchParams(location.hash.slice(1)).get('code');
    if (code === null) return;
    history.replaceState(history.state, '', location.pathname + location.search);
    const field = document.querySelector('[data-code]');
    if (field) {
      field.value = group(code);
      forgive(field);
      const told = document.querySelector('[data-filled]');
      told.textContent = told.dataset.filled;
      field.form.querySelector('button').focus();
    } else {
      for (const note of all('[data-code-elsewhere]')) note.textContent = note.dataset.codeElsewhere;
    }
  };
  takeFragment();
  addEventListener('hashchange', takeFragment);

  // Show and hide a password.
  for (const box of all('.reveal')) {
    const field = box.querySelector('input');
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'quiet';
    button.setAttribute('aria-controls', field.id);
    const set = (shown) => {
      field.type = shown ? 'text' : 'password';
      button.textContent = shown ? 'Hide' : 'Show';
      button.setAttribute('aria-label', button.textContent + ' password');
    };
    button.addEventListener('click', () => set(field.type === 'password'));
    field.form.addEventListener('submit', () => set(false));
    set(false);
    box.append(button);
  }

  // The server's own words on a new password.
  for (const words of all('[data-check]')) {
    const field = document.getElementById(words.dataset.for);
    let timer;
    let asked;
    const say = (answer) => {
      words.textContent = answer ? answer.message : '';
      words.dataset.ok = Boolean(answer && answer.ok);
      if (answer) forgive(field);
    };
    const ask = async () => {
      asked = new AbortController();
      const email = field.form.elements.email;
      try {
        const response = await fetch(words.dataset.check, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ password: field.value, email: email ? email.value : '' }),
          signal: asked.signal,
        });
        if (response.ok) say(await response.json());
      } catch { /* typed on, or offline: submitting tells all the same */ }
    };
    field.addEventListener('input', () => {
      clearTimeout(timer);
      if (asked) asked.abort();
      if (field.value) timer = setTimeout(ask, 300);
      else say(null);
    });
  }

  // When another mail may be asked for.
  for (const form of all('[data-resend-after]')) {
    const button = form.querySelector('button');
    const words = button.textContent;
    const due = Date.now() + 1000 * Number(form.dataset.resendAfter);
    const tick = () => {
      const left = Math.ceil((due - Date.now()) / 1000);
      button.disabled = left > 0;
      button.textContent = left > 0 ? `${words} in ${left} s` : words;
      if (left > 0) setTimeout(tick, 1000);
    };
    tick();
  }

  // A second press must not send the same form twice.
  for (const form of all('form')) {
    form.addEventListener('submit', (event) => {
      if (form.dataset.sent) return event.preventDefault();
      form.dataset.sent = 'yes';
      setTimeout(() => delete form.dataset.sent, 8000);
    });
    addEventListener('pageshow', () => delete form.dataset.sent);
  }
})();
