// OpenAI's client for Node.
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { KEY, MODEL, URL, WEATHER, asking, show } from './cases.mjs';

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY });
const River = z.object({ name: z.string(), km: z.number().int() });
const prompt = (name) => [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: asking(name) },
];

async function chat(name, { model = MODEL, key = KEY } = {}) {
  const whose = client.withOptions({ apiKey: key });
  const answer = await whose.chat.completions.create({ model, messages: prompt(name) });
  const used = [answer.usage.prompt_tokens, answer.usage.completion_tokens];
  return { text: answer.choices[0].message.content, used };
}

async function stream() {
  const pieces = [];
  const running = client.chat.completions.stream({ model: MODEL, messages: prompt('stream') });
  running.on('content', (piece) => pieces.push(piece));
  return { text: await running.finalContent(), pieces };
}

async function tools() {
  const called = [];
  const weather = {
    type: 'function',
    function: {
      name: 'weather',
      description: 'Tells the weather.',
      parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
      parse: JSON.parse,
      function: (told) => {
        called.push('weather', told);
        return WEATHER;
      },
    },
  };
  const running = client.chat.completions.runTools({ model: MODEL, messages: prompt('tools'), tools: [weather] });
  return { text: await running.finalContent(), called };
}

async function schema() {
  const answer = await client.chat.completions.parse({
    model: MODEL,
    messages: prompt('schema'),
    response_format: zodResponseFormat(River, 'river'),
  });
  return answer.choices[0].message.parsed;
}

await show('openai', chat, { stream, tools, schema });
