/** @roomful/react: docs/clients.md tells how to use it. */

export { useConnectionState, useRoomful } from "./use-roomful.ts";
export { useWebSocket } from "./use-web-socket.ts";
export type { UseWebSocketOptions, WebSocketState } from "./use-web-socket.ts";
