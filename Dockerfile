# A small image of `dpcl serve`: CPU build of torch, weights inside, a user without rights.
#   docker build -t dpcl . && docker run --rm -p 8000:8000 -e DPCL_KEYS=secret dpcl
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/dpcl \
    && /opt/dpcl/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && /opt/dpcl/bin/pip install --no-cache-dir -c constraints.txt '.[web,av,show]' \
    && find /opt/dpcl -name '__pycache__' -prune -exec rm -r {} +

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 dpcl
COPY --from=build /opt/dpcl /opt/dpcl
USER dpcl
ENV PATH=/opt/dpcl/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --start-period=20s CMD python -c \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"
ENTRYPOINT ["dpcl"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
