# syntax=docker/dockerfile:1

# Builds the server with all tools, and leaves them behind.
FROM node:24-slim AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY . .
RUN npm run --silent build && sh deploy/docker/assemble.sh /app

FROM node:24-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /app ./
# Not root, and without a right to change what it runs.
USER node
EXPOSE 3000
# The process answers. Load balancers ask /health/ready, which needs the database, too.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["node", "healthcheck.js"]
# Without a shell or npm, so that SIGTERM reaches the server, which shuts down in order.
STOPSIGNAL SIGTERM
ENTRYPOINT ["node", "dist/cli.js"]
