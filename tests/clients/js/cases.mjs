// What every client shows, and how it tells what came of it; as ../cases.py does.
export const { COMITIA_URL: URL, COMITIA_API_KEY: KEY, COMITIA_MARK: MARK } = process.env;
export const MODEL = 'gpt-4o-mini';
/** What the tool answers, whatever the city. */
export const WEATHER = 'cloudburst';

/** Gives the prompt of a case, by which the provider knows what it is to answer. */
export const asking = (name) => `${MARK}:${name}: What do you know?`;

/** Goes through all cases and prints what came of them as one line of JSON. */
export async function show(library, chat, { stream, tools, schema }) {
  const cases = {
    chat: () => chat('chat'),
    stream,
    tools,
    schema,
    no_model: () => chat('no_model', { model: 'gpt-17' }),
    no_key: () => chat('no_key', { key: 'nonsense' }),
    fails_once: () => chat('fails_once'),
    busy_once: () => chat('busy_once'),
  };
  const shown = {};
  for (const [name, run] of Object.entries(cases)) {
    try {
      shown[name] = await run();
    } catch (error) {
      const kind = error.constructor.name;
      shown[name] = { error: `${library}.${kind}`, status: error.status ?? null, message: error.message };
    }
  }
  console.log(JSON.stringify(shown));
}
