// A real OpenID Connect provider on this machine: authorization code with PKCE, device code, refresh tokens.
//
// Usage: node provider.mjs PORT KEYS.json. Prints its address when it listens, then one line for each request: its path.
// Who signs in is who they say they are: the login name is the mail address, and any password will do. An address that
// begins with `unverified` is not verified.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const [port, keys] = process.argv.slice(2);
const DEVICE_CODE = 'urn:ietf:params:oauth:grant-type:device_code';

function configuration() {
  return {
    clients: [
      {
        client_id: 'comitia',
        application_type: 'native',
        token_endpoint_auth_method: 'none',
        grant_types: ['authorization_code', 'refresh_token', DEVICE_CODE],
        response_types: ['code'],
        redirect_uris: ['http://127.0.0.1/callback'],
        id_token_signed_response_alg: process.env.OIDC_ALGORITHM ?? 'RS256',
      },
    ],
    jwks: JSON.parse(readFileSync(keys, 'utf8')),
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA'] },
    cookies: { keys: ['only for tests'] },
    features: { devInteractions: { enabled: true }, deviceFlow: { enabled: true } },
    // The mail address stands in the ID token itself, as with most providers.
    conformIdTokenClaims: false,
    claims: { openid: ['sub'], email: ['email', 'email_verified'] },
    ttl: {
      AccessToken: 600,
      AuthorizationCode: 60,
      DeviceCode: Number(process.env.OIDC_DEVICE_SECONDS ?? 600),
      Grant: 3600,
      IdToken: Number(process.env.OIDC_ID_TOKEN_SECONDS ?? 600),
      Interaction: 600,
      RefreshToken: 3600,
      Session: 3600,
    },
    async findAccount(_context, id) {
      return {
        accountId: id,
        claims: async () => ({ sub: id, email: id, email_verified: !id.startsWith('unverified') }),
      };
    },
  };
}

// Its address is known only when it listens, and with PORT 0 nobody knows it before.
let answer;
const server = createServer((request, response) => {
  console.log(new URL(request.url, 'http://localhost').pathname);
  answer(request, response);
});
server.listen(Number(port), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  answer = new Provider(issuer, configuration()).callback();
  console.log(issuer);
});
